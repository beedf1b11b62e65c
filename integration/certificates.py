"""Certificates of a test CA, made by the openssl command: a new CA for every test session, no key is ever stored."""

from __future__ import annotations

import subprocess
from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
_DAYS = ("-days", "2")


class Authority:
    """A CA in a folder of its own; `ca` is its certificate (PEM)."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.ca = folder / "ca.pem"
        self._config = folder / "openssl.cnf"
        self._config.write_text(
            "[req]\ndistinguished_name=dn\nx509_extensions=ca\n[dn]\n[ca]\nbasicConstraints=CA:TRUE\n"
        )
        self._key = folder / "ca.key"
        self._openssl("req", "-x509", *_KEY, *_DAYS, "-subj", "/CN=test CA", "-keyout", self._key, "-out", self.ca)

    def certificate(self, *names: str) -> Path:
        """A PEM file with a new private key and a certificate for these names: `DNS:localhost`, `IP:127.0.0.1`."""
        stem = self.folder / "-".join(name.partition(":")[2] for name in names)
        key, request, signed, extensions = (
            stem.with_name(f"{stem.name}.{end}") for end in ("key", "csr", "crt", "ext")
        )
        extensions.write_text(f"subjectAltName={','.join(names)}\n")
        self._openssl("req", "-new", *_KEY, "-subj", "/CN=broker", "-keyout", key, "-out", request)
        signing = ("-CA", self.ca, "-CAkey", self._key, "-CAcreateserial", "-extfile", extensions)
        self._openssl("x509", "-req", "-in", request, *_DAYS, *signing, "-out", signed)
        whole = stem.with_name(f"{stem.name}.pem")
        whole.write_bytes(key.read_bytes() + signed.read_bytes())
        return whole

    def _openssl(self, verb: str, *arguments: str | Path) -> None:
        config = ("-config", self._config) if verb == "req" else ()
        subprocess.run(["openssl", verb, *map(str, (*config, *arguments))], check=True, capture_output=True, timeout=60)
