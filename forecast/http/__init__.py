"""The HTTP side of a forecast: requests, answers, authorisation, routes. No Ray: `routes.make_app`
takes a `Service`, which `serve_app.Gateway` is.
"""
