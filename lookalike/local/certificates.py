"""Owns the making of certificates for a cluster, in a folder:

ca.crt, ca.key                  the cluster's authority
tls.crt, tls.key                one certificate for all of the cluster's processes, which names all their hosts
client-ca.crt, client-ca.key    another authority, for clients, because shards trust every certificate of the first
client.crt, client.key          a client's certificate

Keys are elliptic (P-256), have no password, and only their owner can read them."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lookalike.files.atomic import write_bytes
from lookalike.model.errors import AlreadyExists, CannotStart, InvalidRequest
from lookalike.server.config import ClusterConfig

AUTHORITY_DAYS = 3_650
KEY_MODE = 0o600
_EVERY_INTERFACE = ("0.0.0.0", "::", "")
_CURVE = ec.SECP256R1()
# A clock of another machine may be behind.
_EARLIER = datetime.timedelta(minutes=10)
_BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
_CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH,)

Key: TypeAlias = ec.EllipticCurvePrivateKey
Authority: TypeAlias = tuple[x509.Certificate, Key]
# File names and contents.
Files: TypeAlias = Mapping[str, bytes]


def hosts_of(config: ClusterConfig) -> list[str]:
    """The hosts under which the cluster's processes are called: those of all addresses that name one, and
    security.tls.server_name."""
    shards = [
        config.shard_address(partition, replica)
        for partition in range(config.partitions)
        for replica in range(config.replicas)
    ]
    encoders = [encoder.address for encoder in config.all_encoders.values()]
    addresses = [*shards, *encoders, config.coordinator.listen, config.coordinator.web]
    hosts = [address.rpartition(":")[0].strip("[]") for address in addresses]
    name = config.security.tls and config.security.tls.server_name
    return list(dict.fromkeys([*([name] if name else []), *(one for one in hosts if one not in _EVERY_INTERFACE)]))


def create(folder: Path, cluster: str, hosts: Sequence[str], days: int) -> None:
    """Makes both authorities and their certificates. Creates the folder if it does not exist.

    Args:
        folder: Where to write the files.
        cluster: The cluster's name, which becomes part of the authorities' names.
        hosts: The names and IP addresses of the hosts.
        days: How long the certificates are valid; the authorities are valid for ten years.

    Raises:
        AlreadyExists: If one of the files exists. Nothing is written then.
        InvalidRequest: If a host is no name, or the folder cannot be written.
    """
    inside = _authority(f"Lookalike cluster {cluster}")
    outside = _authority(f"Lookalike clients of {cluster}")
    files = {
        **_authority_files("ca", inside),
        **_authority_files("client-ca", outside),
        **_issued_files(inside, outside, cluster, hosts, days),
    }
    if existing := [name for name in files if (folder / name).exists()]:
        raise AlreadyExists(
            f"folder: {folder / existing[0]} exists and is not overwritten; name another folder, or replace only"
            " the certificates with --renew"
        )
    _save(folder, files)


def renew(folder: Path, cluster: str, hosts: Sequence[str], days: int) -> None:
    """Replaces the certificates by new ones of the same authorities. For the arguments see `create`.

    Raises:
        CannotStart: If the authorities' files are missing or damaged.
        InvalidRequest: If a host is no name, or the folder cannot be written.
    """
    inside, outside = (_load_authority(folder, name) for name in ("ca", "client-ca"))
    _save(folder, _issued_files(inside, outside, cluster, hosts, days))


def _issued_files(
    inside: Authority, outside: Authority, cluster: str, hosts: Sequence[str], days: int
) -> dict[str, bytes]:
    names = list(_general_names(hosts))
    server, client = (ec.generate_private_key(_CURVE) for _ in range(2))
    return {
        "tls.crt": _pem(_issue(inside, server, f"Lookalike {cluster}", days, _BOTH, names)),
        "tls.key": _key_pem(server),
        "client.crt": _pem(_issue(outside, client, f"client of {cluster}", days, _CLIENT)),
        "client.key": _key_pem(client),
    }


def _authority_files(name: str, authority: Authority) -> dict[str, bytes]:
    certificate, key = authority
    return {f"{name}.crt": _pem(certificate), f"{name}.key": _key_pem(key)}


def _authority(name: str) -> Authority:
    key = ec.generate_private_key(_CURVE)
    subject = _named(name)
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = (
        _builder(subject, subject, key, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    return builder.sign(key, hashes.SHA256()), key


def _issue(
    authority: Authority,
    key: Key,
    name: str,
    days: int,
    purposes: Sequence[x509.ObjectIdentifier],
    names: Sequence[x509.GeneralName] = (),
) -> x509.Certificate:
    issuer, issuer_key = authority
    builder = (
        _builder(_named(name), issuer.subject, key, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _builder(subject: x509.Name, issuer: x509.Name, key: Key, days: int) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _named(name: str) -> x509.Name:
    # X.509 permits 64 characters.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _general_names(hosts: Sequence[str]) -> Iterator[x509.GeneralName]:
    for host in hosts:
        try:
            yield x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            try:
                yield x509.DNSName(host)
            except ValueError:
                raise InvalidRequest(f"host: {host!r} is not a host's name in ASCII; use its IDNA form") from None


def _load_authority(folder: Path, name: str) -> Authority:
    try:
        certificate = x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes())
        key = serialization.load_pem_private_key((folder / f"{name}.key").read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise CannotStart(
            f"folder: {folder / name}.crt and .key cannot be used ({error}); name the folder that `lookalike"
            " certificates` made"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise CannotStart(f"folder: {folder / name}.key is not the key of {name}.crt; restore both from a backup")
    return certificate, key


def _save(folder: Path, files: Files) -> None:
    """Writes keys before certificates, so that a process that reads in between keeps its old pair."""
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        for name in sorted(files, key=lambda name: not name.endswith(".key")):
            write_bytes(folder / name, files[name], KEY_MODE if name.endswith(".key") else 0o644)
    except OSError as error:
        raise InvalidRequest(f"folder: {folder} cannot be written: {error.strerror}") from None


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
