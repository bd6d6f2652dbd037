"""What AWS is told of a repository: the least rights of who does what with it, and what the bucket clears away."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any

from deployctl.repository.s3_keys import CLAIMS, CONTENTS, MANIFESTS, PROBES
from deployctl.repository.s3_session import parse_url

# Longer than any upload takes.
_CLEAR_AFTER_DAYS = 7


class Role(StrEnum):
    """Who is given rights: who publishes versions, who retires them as well, or who fetches them to serve them."""

    PUBLISHER = "publisher"
    RETIRER = "retirer"
    SERVER = "server"

    @property
    def publishes(self) -> bool:
        """Whether it writes."""
        return self is not Role.SERVER


def policy(location: str, role: Role, *, kms_key_id: str = "", tagged: bool = False) -> str:
    """Returns the IAM policy document for `role` on the repository at `s3://BUCKET/PREFIX`, as JSON.

    A publisher cannot remove a manifest, and can only put one where there is none
    (https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes-enforce.html). Who retires a version puts
    an empty manifest over its own, and so may put any; as what is denied wins over what is allowed, nobody can have
    both policies.
    """
    bucket, prefix = parse_url(location)
    arn, root = f"arn:aws:s3:::{bucket}", f"{prefix}/" if prefix else ""
    reading: list[dict[str, Any]] = [
        {
            "Sid": "List",
            "Effect": "Allow",
            "Action": "s3:ListBucket",
            "Resource": arn,
            "Condition": {"StringLike": {"s3:prefix": f"{root}*"}},
        },
        {"Sid": "Read", "Effect": "Allow", "Action": "s3:GetObject", "Resource": f"{arn}/{root}*"},
    ]
    statements = reading
    if role.publishes:
        statements += _publishing(arn, root, tagged=tagged, once=role is Role.PUBLISHER)
    if kms_key_id:
        actions = ["kms:Decrypt"] + (["kms:GenerateDataKey"] if role.publishes else [])
        key = kms_key_id if kms_key_id.startswith("arn:") else f"arn:aws:kms:*:*:key/{kms_key_id}"
        statements.append({"Sid": "Key", "Effect": "Allow", "Action": actions, "Resource": key})
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, indent=2)


def lifecycle(location: str) -> str:
    """Returns the lifecycle configuration that clears away what killed publishers left, as JSON."""
    _, prefix = parse_url(location)
    root = f"{prefix}/" if prefix else ""
    rules: list[dict[str, Any]] = [
        {
            "ID": "deployctl-abandoned-uploads",
            "Status": "Enabled",
            "Filter": {"Prefix": root},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": _CLEAR_AFTER_DAYS},
        }
    ]
    for name, keys in (("claims", CLAIMS), ("probes", PROBES)):
        rules.append(
            {
                "ID": f"deployctl-abandoned-{name}",
                "Status": "Enabled",
                "Filter": {"Prefix": root + keys},
                "Expiration": {"Days": _CLEAR_AFTER_DAYS},
            }
        )
    return json.dumps({"Rules": rules}, indent=2)


def _publishing(arn: str, root: str, *, tagged: bool, once: bool) -> list[dict[str, Any]]:
    writing = ["s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    manifests = f"{arn}/{root}{MANIFESTS}*"
    put_once = {
        "Sid": "ManifestsArePutOnce",
        "Effect": "Deny",
        "Action": "s3:PutObject",
        "Resource": manifests,
        "Condition": {"Null": {"s3:if-none-match": "true"}},
    }
    return [
        {
            "Sid": "ListUploads",
            "Effect": "Allow",
            "Action": "s3:ListBucketMultipartUploads",
            "Resource": arn,
        },
        {
            "Sid": "Write",
            "Effect": "Allow",
            "Action": [*writing, *(["s3:PutObjectTagging"] if tagged else [])],
            "Resource": f"{arn}/{root}*",
        },
        {
            "Sid": "ClearAway",
            "Effect": "Allow",
            "Action": "s3:DeleteObject",
            "Resource": [
                f"{arn}/{root}*/*",
                *(f"{arn}/{root}{keys}*" for keys in (CLAIMS, CONTENTS, PROBES)),
            ],
        },
        {"Sid": "ManifestsStay", "Effect": "Deny", "Action": "s3:DeleteObject", "Resource": manifests},
        *([put_once] if once else []),
    ]
