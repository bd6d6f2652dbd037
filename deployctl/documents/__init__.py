"""Results as the JSON documents of `-o json` and of the HTTP API: pure functions, one module a noun."""
