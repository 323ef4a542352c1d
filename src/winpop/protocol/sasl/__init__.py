"""The SASL mechanisms, the server's side, pure (RFC 4422)."""
