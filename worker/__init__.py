"""Computes: engine, drafters, batching, and the draft and verify services. Chooses nothing."""

from speculation.polling import poll_where_messages_are_awaited

poll_where_messages_are_awaited()  # here, as it must be before gRPC is imported by any module of this package
