"""Certificates that nobody vouches for."""

import shutil
import subprocess
from pathlib import Path

import pytest


def certificate_for(name: str, home: Path) -> tuple[Path, Path]:
    """Make a certificate for a host's name in a folder, and its key; skips the test where there is no openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    made, key = home / "cert.pem", home / "key.pem"
    subject = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    command = ["openssl", "req", "-x509", *kind, "-keyout", str(key), "-out", str(made), *subject]
    subprocess.run(command, check=True, capture_output=True)
    return made, key
