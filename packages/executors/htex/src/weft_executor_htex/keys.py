"""The keys of a run: made where its client is, and used up with it."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from .setup import Identity, Keys

__all__ = ["make_keys"]

# Each side knows the very certificate of the other: how long it is valid must not depend on anybody's clock.
_FROM = datetime.datetime(1970, 1, 1)
_UNTIL = datetime.datetime(9999, 12, 31)


def make_keys() -> Keys:
    """New ones, of which no other run has any."""
    return Keys(_make("weft interchange"), _make("weft manager"))


def _make(name: str) -> Identity:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Identity(certificate.public_bytes(serialization.Encoding.PEM).decode(), secret.decode())
