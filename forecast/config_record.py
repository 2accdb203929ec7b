"""Which config a fleet runs with, as the audit log holds it: what changed, and no secret.

A record holds the whole config by key, so that the next one can say what changed against it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from forecast.canonical import canonical, plain, sha256

_SECRET = re.compile(r"secret|password|passphrase|credential|webhook|tokens?$|_key$")
"""The last part of a key whose value nobody may read in a log."""
_TOLD = {"serve.tls_key"}
"""Names the file of one, which is no secret."""
HIDDEN = "(not shown)"


def shown(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values by key, less the secret ones; a URL without who asks and what is asked.

    >>> shown({"alerts.webhook": "https://a/b", "pull.url": "https://me:pw@host/x?key=1", "n": 1})
    {'alerts.webhook': '(not shown)', 'pull.url': 'https://host/x', 'n': 1}
    """
    return {key: _shown(key, value) for key, value in plain(config).items()}


def _shown(key: str, value: Any) -> Any:  # noqa: ANN401 - JSON
    if _SECRET.search(key.rpartition(".")[2]) and key not in _TOLD and value is not None:
        return HIDDEN
    if isinstance(value, list):
        return [_shown(key, item) for item in value]
    if isinstance(value, Mapping):
        return {name: _shown(name, item) for name, item in value.items()}
    if isinstance(value, str) and "://" in value:
        return re.sub(r"(://)[^/@]*@|[?#].*$", r"\1", value)
    return value


def record(config: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The detail of a `config` record; None where the config is that of the record `before`.

    `config` holds values by key. `changed` holds [old, new] by key, nothing in the first record.
    """
    now = shown(config)
    digest = sha256(canonical(now))
    if before is not None and before["sha256"] == digest:
        return None
    was = now if before is None else before["config"]
    changed = {
        key: [was.get(key), now.get(key)]
        for key in sorted({*was, *now})
        if was.get(key) != now.get(key)
    }
    return {"sha256": digest, "changed": changed, "config": now}
