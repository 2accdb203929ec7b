"""What a forecast is: schema, clock, windows, model, registry, ledger. Imports nothing of ours."""
