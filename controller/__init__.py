"""Decides: the speculative loop, the fleet, the generation service and the decision log. Holds no model weights."""

from speculation.polling import poll_where_messages_are_awaited

poll_where_messages_are_awaited()  # here, as it must be before gRPC is imported by any module of this package
