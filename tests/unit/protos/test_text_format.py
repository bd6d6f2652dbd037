"""The text files that are written for tensorflow_model_server parse with our messages."""

from __future__ import annotations

import pytest
from google.protobuf import text_format

from deployctl.protos import serving_pb2


def test_a_model_config_file_parses() -> None:
    text = """
    # the documentation's own example, with labels
    model_config_list {
      config {
        name: "my_first_model"
        base_path: "/tmp/my_first_model/"
        model_platform: "tensorflow"
        model_version_policy { specific { versions: 42 versions: 43 } }
        version_labels { key: 'stable' value: 42 }
        version_labels { key: 'canary' value: 43 }
        logging_config {
          log_collector_config { type: "warmup" filename_prefix: "/tmp/log" }
          sampling_config { sampling_rate: 0.1 }
        }
      }
      config {
        name: "second" base_path: "/tmp/second" model_type: TENSORFLOW
        model_version_policy: { latest { num_versions: 2 } }
      },
      config: { name: "third" base_path: "/tmp/third" model_version_policy { all: {} } }
    }
    """
    parsed = text_format.Parse(text, serving_pb2.ModelServerConfig())
    first, second, third = parsed.model_config_list.config
    assert list(first.model_version_policy.specific.versions) == [42, 43]
    assert dict(first.version_labels) == {"stable": 42, "canary": 43}
    assert first.logging_config.sampling_config.sampling_rate == 0.1
    assert second.model_version_policy.latest.num_versions == 2
    assert third.model_version_policy.WhichOneof("policy_choice") == "all"


def test_an_empty_list_of_models_is_not_an_empty_file() -> None:
    listed = text_format.Parse("model_config_list {}", serving_pb2.ModelServerConfig())
    assert listed.WhichOneof("config") == "model_config_list"
    assert text_format.Parse("", serving_pb2.ModelServerConfig()).WhichOneof("config") is None


def test_a_misspelt_field_is_refused() -> None:
    with pytest.raises(text_format.ParseError, match="base_pth"):
        text_format.Parse('model_config_list { config { base_pth: "/x" } }', serving_pb2.ModelServerConfig())


def test_a_batching_parameters_file_parses() -> None:
    text = """
    max_batch_size { value: 128 }
    batch_timeout_micros { value: 0 }
    max_enqueued_batches { value: 1000000 }
    num_batch_threads { value: 8 }
    thread_pool_name { value: "batch" }
    allowed_batch_sizes: [32, 128]
    pad_variable_length_inputs: true
    """
    parsed = text_format.Parse(text, serving_pb2.BatchingParameters())
    assert parsed.max_batch_size.value == 128
    assert parsed.HasField("batch_timeout_micros")
    assert list(parsed.allowed_batch_sizes) == [32, 128]


def test_an_ssl_config_file_parses() -> None:
    text = 'server_key: "-----BEGIN\\nKEY" server_cert: "cert" custom_ca: "" client_verify: false'
    parsed = text_format.Parse(text, serving_pb2.SSLConfig())
    assert (parsed.server_key, parsed.server_cert) == ("-----BEGIN\nKEY", "cert")


def test_a_monitoring_config_file_parses() -> None:
    text = 'prometheus_config { enable: true, path: "/monitoring/prometheus/metrics" }'
    parsed = text_format.Parse(text, serving_pb2.MonitoringConfig())
    assert parsed.prometheus_config.enable
    assert parsed.prometheus_config.path == "/monitoring/prometheus/metrics"
