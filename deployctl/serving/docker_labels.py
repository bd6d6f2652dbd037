"""The labels by which deployctl knows its containers and images, and the roles of containers."""

TARGET_LABEL = "io.deployctl.target"
# Which state directory it belongs to: two projects on one engine may both have a target `local`.
PROJECT_LABEL = "io.deployctl.project"
# What it was made from: another value means that a setting has changed.
SPEC_LABEL = "io.deployctl.spec"
ROLE_LABEL = "io.deployctl.role"
# What its image was called when it was made: a name may come to mean another image.
IMAGE_LABEL = "io.deployctl.image"
# On containers that publish nothing and are reached at their own address.
ISOLATED_LABEL = "io.deployctl.isolated"
# On images of the embedded server, which has flags of its own.
OURS_LABEL = "io.deployctl.model-server"

SERVING_ROLE = "serving"
TRIAL_ROLE = "trial"
