"""Who holds a port."""

from __future__ import annotations

import os
import socket

import pytest

from deployctl.serving.ports import PortHolder, accepts, free_ports, holder, is_free


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_something_listens_on_is_not_free_and_its_holder_is_known(address: str) -> None:
    with socket.create_server((address, 0)) as server:
        port = server.getsockname()[1]
        found = holder(port)

        assert not is_free("127.0.0.1", port)
        assert accepts("127.0.0.1", port, timeout_s=5)
        assert found is not None
        assert found == PortHolder(os.getpid(), found.name)


def test_a_port_that_nothing_listens_on_is_free() -> None:
    first, second = free_ports("127.0.0.1", 2)

    assert first != second
    assert is_free("127.0.0.1", first)
    assert holder(first) is None
    assert not accepts("127.0.0.1", first, timeout_s=5)


def test_an_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(OSError, match="assign"):
        is_free("192.0.2.1", 0)
