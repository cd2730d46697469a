//! Caddy configuration from services, loading it, and proving that public names serve.
