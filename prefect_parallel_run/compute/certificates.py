"""Credentials of a managed cluster: one certificate and its key, created for one run and known to its processes only."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

from distributed import Security

_NAME = "prefect-parallel-run"
_MAX_CLOCK_SKEW = timedelta(days=1)  #: between the hosts of a cluster
_VALID = timedelta(days=365)  #: longer than any run
_ROLES = ("scheduler", "worker", "client")


@dataclass(frozen=True, slots=True)
class Credentials:
    """The certificate that every process of a cluster presents, and the only one that it accepts."""

    certificate: str  #: PEM
    key: str = field(repr=False)  #: PEM, not encrypted

    def security(self) -> Security:
        """Return a Dask Security object, held in memory."""
        return _security(self.certificate, self.key)

    def in_files(self, folder: Path) -> Security:
        """Return a Dask Security object, with files in *folder* that only this user can read."""
        paths = [folder / "certificate.pem", folder / "key.pem"]
        for path, text in zip(paths, (self.certificate, self.key), strict=True):
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(text)
        return _security(str(paths[0]), str(paths[1]))


def new_credentials() -> Credentials:
    """Return a new certificate and key.

    The key is on the curve P-256, which takes 0.2 ms; an RSA key such as Dask's takes 60 ms, and its handshakes are slower.
    """
    from cryptography import x509  # noqa: PLC0415  60 ms of import, for managed clusters only
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415  only for managed clusters
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415  only for managed clusters

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, _NAME)])
    now = datetime.now(timezone.utc)
    key_usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _MAX_CLOCK_SKEW)
        .not_valid_after(now + _VALID)
        # Python 3.13 verifies strictly, and refuses a certificate without these.
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(_NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Credentials(certificate.public_bytes(serialization.Encoding.PEM).decode("ascii"), secret.decode("ascii"))


def _security(certificate: str, key: str) -> Security:
    """Return a Dask Security object; each argument is PEM, or the path of a file."""
    files = {f"tls_{role}_{kind}": value for role in _ROLES for kind, value in (("cert", certificate), ("key", key))}
    return Security(require_encryption=True, tls_ca_file=certificate, **files)
