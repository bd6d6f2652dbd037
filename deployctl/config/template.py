"""The settings file that `deployctl init` writes."""

from __future__ import annotations

TEMPLATE = """\
# Settings of deployctl. Every key, its default and its meaning: deployctl config show --origin

[repository]
model_base_path = "models"

[lineage]
url = "sqlite:///deployctl.db"

[targets.local]
runtime = "process"      # the embedded model server: no Docker, no root
routing = "label"        # clients call by the label `stable`; "latest": clients name no version
rest_port = 8501
grpc_port = 8500
warm_standby = 1         # earlier versions kept loaded, so that a rollback loads nothing
"""
