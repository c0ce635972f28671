"""How one page is set: what `python -m page` takes as options."""

from typing import Annotated

from pydantic import Field

from gateway.settings import Address, Count, HTTPSettings, Seconds

HostName = Annotated[str, Field(pattern=r"^[\w.-]*$")]


class PageSettings(HTTPSettings):
    """One page."""

    listen: Address = "127.0.0.1:8080"
    """host:port; loopback unless you name another host; port 0 takes a free one"""
    host: HostName = ""
    """the name by which browsers reach the page, where it is not the host of --listen and not localhost"""
    longest_body_bytes: Count = 64 << 10
    """bytes of a request's body"""
    longest_request_s: Seconds = 10.0
    """seconds in which the controller must have answered"""
    drain_grace_s: Count = 2
    """seconds that running requests may go on after SIGTERM"""
