"""Clusters with listeners that want TLS and SCRAM-SHA-512, beside the plain one that brokers and tests use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .certificates import Authority
from .cluster import Cluster
from .node import free_ports

USER, PASSWORD = "mirror", "s3cret-of-the-mirror"
SESSION_MS = 4000
MECHANISM = "SCRAM-SHA-512"


@dataclass(frozen=True)
class Secured:
    """A cluster and the addresses of its secured listeners.

    brief      ends every session after SESSION_MS
    misnamed   shows a certificate for another host
    """

    cluster: Cluster
    authority: Authority
    secured: str
    brief: str
    misnamed: str

    def section(self, bootstrap: str | None = None, **changed: str | None) -> dict[str, Any]:
        """This cluster in a configuration; `changed` are client keys with _ for the dots, None leaves one out."""
        client = {
            "security.protocol": "SASL_SSL",
            "ssl.ca.location": str(self.authority.ca),
            "sasl.mechanism": MECHANISM,
            "sasl.username": USER,
            "sasl.password": PASSWORD,
            **{key.replace("_", "."): value for key, value in changed.items()},
        }
        chosen = {key: value for key, value in client.items() if value is not None}
        return {"bootstrap": bootstrap or self.secured, "client": chosen}


def launch(name: str, folder: Path, authority: Authority) -> Secured:
    """Formats and starts it, with one user; `cluster.wait_ready` must follow."""
    ports = free_ports(3)
    secured, brief, misnamed = (f"127.0.0.1:{port}" for port in ports)
    ours = authority.certificate("IP:127.0.0.1", "DNS:localhost")
    theirs = authority.certificate("DNS:other.example")
    login = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    settings: dict[str, object] = {
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
        "SECURED:SASL_SSL,BRIEF:SASL_SSL,MISNAMED:SASL_SSL",
        "sasl.enabled.mechanisms": MECHANISM,
    }
    for listener, certificate in (("secured", ours), ("brief", ours), ("misnamed", theirs)):
        prefix = f"listener.name.{listener}"
        settings |= {
            f"{prefix}.ssl.keystore.type": "PEM",
            f"{prefix}.ssl.keystore.location": certificate,
            f"{prefix}.scram-sha-512.sasl.jaas.config": login,
        }
    settings["listener.name.brief.scram-sha-512.connections.max.reauth.ms"] = SESSION_MS
    cluster = Cluster.launch(
        name,
        folder,
        listeners=[f"SECURED://{secured}", f"BRIEF://{brief}", f"MISNAMED://{misnamed}"],
        format_options=["--add-scram", f"{MECHANISM}=[name={USER},password={PASSWORD}]"],
        overrides=settings,
    )
    return Secured(cluster, authority, secured, brief, misnamed)
