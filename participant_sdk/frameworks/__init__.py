"""A transaction in HTTP: what carries it from a client to a service (`clients`), and what takes it there (`asgi`, `wsgi`, `flask`,
`django`). Nothing is imported here: each needs only what its user has."""
