"""What the flags and the configuration files say of how versions are loaded."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from deployctl.modelserver.bundle_config import bundle_config
from deployctl.modelserver.flags import parse_flags
from deployctl.modelserver.interface import Code, StatusError
from deployctl.modelserver.tflite_options import TfliteOptions
from tests.support.models import skip_or_fail

if find_spec("tensorflow") is None:
    skip_or_fail("tensorflow", "TensorFlow defines the messages")

PLATFORM = """
platform_configs {
  key: "tensorflow"
  value {
    source_adapter_config {
      [type.googleapis.com/tensorflow.serving.SavedModelBundleSourceAdapterConfig] {
        legacy_config {
          session_config { intra_op_parallelism_threads: 3 }
          enable_model_warmup: true
          model_warmup_options { num_request_iterations { value: 2 } }
          saved_model_tags: "serve" saved_model_tags: "gpu"
          batching_parameters {
            max_batch_size { value: 9 } batch_timeout_micros { value: 5000 } max_enqueued_batches { value: 4 }
            num_batch_threads { value: 3 } thread_pool_name { value: "pool" } allowed_batch_sizes: 2
            allowed_batch_sizes: 6 pad_variable_length_inputs: true enable_large_batch_splitting { value: true }
            max_execution_batch_size { value: 6 }
          }
          prefer_tflite_model: true num_tflite_pools: 5
        }
      }
    }
  }
}
"""


def test_a_session_config_file_is_read_as_a_config_proto(tmp_path: Path) -> None:
    file = tmp_path / "session.config"
    file.write_text("inter_op_parallelism_threads: 4 graph_options { rewrite_options { remapping: OFF } }")

    session = bundle_config(parse_flags([f"--tensorflow_session_config_file={file}"])).loader.session

    # inter_op_parallelism_threads is field 5; graph_options 10, its rewrite_options 10, its remapping 14 with OFF 2.
    assert session.config_proto == bytes((5 << 3, 4, 10 << 3 | 2, 4, 10 << 3 | 2, 2, 14 << 3, 2))


def test_flags_come_after_the_session_config_file_and_so_win(tmp_path: Path) -> None:
    file = tmp_path / "session.config"
    file.write_text("intra_op_parallelism_threads: 4")
    flags = parse_flags([f"--tensorflow_session_config_file={file}", "--tensorflow_intra_op_parallelism=2"])

    assert bundle_config(flags).loader.session.config_proto == bytes((2 << 3, 4, 2 << 3, 2))


def test_gpu_memory_and_mixed_precision_go_into_the_sessions_config() -> None:
    flags = parse_flags(["--per_process_gpu_memory_fraction=0.5", "--mixed_precision=bfloat16"])

    gpu = bytes((6 << 3 | 2, 9, 1 << 3 | 1)) + b"\0\0\0\0\0\0\xe0\x3f"
    # RewriterConfig.auto_mixed_precision_onednn_bfloat16 is field 31: two bytes of key.
    rewriter = bytes((31 << 3 & 0x7F | 0x80, 31 >> 4, 1))
    graph = bytes((10 << 3 | 2, 5, 10 << 3 | 2, 3)) + rewriter
    assert bundle_config(flags).loader.session.config_proto == gpu + graph


def test_a_platform_config_file_says_all_by_itself(tmp_path: Path) -> None:
    file = tmp_path / "platform.config"
    file.write_text(PLATFORM)

    config = bundle_config(parse_flags([f"--platform_config_file={file}", "--saved_model_tags=other"]))

    loader, batching = config.loader, config.loader.batching
    assert loader.session.config_proto == bytes((2 << 3, 3))
    assert (loader.session.tags, loader.warm_up, loader.warm_up_iterations) == (("serve", "gpu"), True, 2)
    assert batching is not None
    assert (batching.max_batch_size, batching.batch_timeout_s, batching.max_enqueued_batches) == (9, 0.005, 4)
    assert (batching.allowed_batch_sizes, batching.split_large, batching.execution_size) == ((2, 6), True, 6)
    assert batching.pad_variable_length_inputs
    assert (config.batch_threads, config.tflite) == (3, TfliteOptions(5, 1))


def test_warm_up_is_off_in_a_platform_config_file_that_does_not_name_it(tmp_path: Path) -> None:
    file = tmp_path / "platform.config"
    adapter = "[type.googleapis.com/tensorflow.serving.SavedModelBundleSourceAdapterConfig] { legacy_config { } }"
    file.write_text(f'platform_configs {{ key: "tensorflow" value {{ source_adapter_config {{ {adapter} }} }} }}')

    config = bundle_config(parse_flags([f"--platform_config_file={file}", "--enable_batching"]))

    assert (config.loader.warm_up, config.loader.batching, config.tflite) == (False, None, None)


@pytest.mark.parametrize("flag", ["tensorflow_session_config_file", "platform_config_file"])
def test_a_file_that_is_no_such_message_is_refused(tmp_path: Path, flag: str) -> None:
    file = tmp_path / "file"
    file.write_text("no_such_field: 1")

    with pytest.raises(StatusError) as raised:
        bundle_config(parse_flags([f"--{flag}={file}"]))

    assert (raised.value.code, raised.value.message) == (Code.INVALID_ARGUMENT, f"Invalid protobuf file: '{file}'")


def test_a_file_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(StatusError) as raised:
        bundle_config(parse_flags([f"--platform_config_file={tmp_path / 'none'}"]))

    assert raised.value.code is Code.NOT_FOUND
