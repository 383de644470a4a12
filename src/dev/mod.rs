//! Private servers: a Redis and a Postgres of our own, for `highwater dev` and for the tests.
