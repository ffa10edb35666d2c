"""Credentials of a cluster: who has them is let in, and nobody else; no socket is opened."""

import ssl
import stat

import pytest

from prefect_parallel_run.compute.certificates import new_credentials


def shake_hands(server, client):
    """Exchange a TLS handshake in memory; raises what either side has against the other."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [server.wrap_bio(to_server, to_client, server_side=True), client.wrap_bio(to_client, to_server)]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    ends[1].write(b"x")
    return ends[0].read(1), ends[0].version()


def server_of(credentials):
    return credentials.security().get_listen_args("scheduler")["ssl_context"]


def client_of(credentials):
    return credentials.security().get_connection_args("worker")["ssl_context"]


@pytest.mark.parametrize("flags", [0, ssl.VERIFY_X509_STRICT])
def test_holders_of_the_same_credentials_trust_each_other(flags):
    """Python 3.13 verifies strictly unless it is told otherwise."""
    credentials = new_credentials()
    server, client = server_of(credentials), client_of(credentials)
    server.verify_flags |= flags
    client.verify_flags |= flags
    assert shake_hands(server, client) == (b"x", "TLSv1.3")


def test_holders_of_other_credentials_are_refused_by_both_sides():
    ours, theirs = new_credentials(), new_credentials()
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server_of(ours), client_of(theirs))
    careless = client_of(theirs)
    careless.verify_mode = ssl.CERT_NONE
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server_of(ours), careless)


def test_a_client_without_a_certificate_is_refused():
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    with pytest.raises(ssl.SSLError, match=r"(?i)peer.did.not.return.a.certificate"):
        shake_hands(server_of(new_credentials()), client)


def test_files_can_be_read_by_this_user_only(tmp_path):
    """And they hold what memory does."""
    credentials = new_credentials()
    security = credentials.in_files(tmp_path)
    assert security.require_encryption
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    context = security.get_connection_args("client")["ssl_context"]
    assert shake_hands(server_of(credentials), context)[0] == b"x"


def test_the_key_is_not_shown():
    """A log or a traceback may show what a cluster was opened with."""
    credentials = new_credentials()
    assert "PRIVATE" in credentials.key
    assert "PRIVATE" not in f"{credentials!r} {credentials.security()!r}"
