"""The daemon: publishes what arrives, keeps targets as recorded, and answers the HTTP API."""
