"""Ops that a served model has no business with: files by name, the network, Python code, the server's own process.

Chosen from TensorFlow's registry (`tensorflow_ops/`): by names, and by inputs and attributes that are a path or an
address. What every SavedModel has is no part of it: checkpoints of its variables (SaveV2, RestoreV2, ShardedFilename,
MergeV2Checkpoints and their elder kin), and the vocabularies of its tables (InitializeTableFromTextFile).
"""

from __future__ import annotations

_FILES = frozenset(
    {
        *("ReadFile", "WriteFile", "MatchingFiles", "FileSystemSetConfiguration", "ImmutableConst", "RecordInput"),
        *("MatchingFilesDataset", "ExperimentalMatchingFilesDataset"),
        *("WholeFileReader", "WholeFileReaderV2", "TextLineReader", "TextLineReaderV2", "LMDBReader"),
        *("FixedLengthRecordReader", "FixedLengthRecordReaderV2", "TFRecordReader", "TFRecordReaderV2"),
        *("TextLineDataset", "FixedLengthRecordDataset", "FixedLengthRecordDatasetV2"),
        *("TFRecordDataset", "TFRecordDatasetV2", "DatasetToTFRecord", "ExperimentalDatasetToTFRecord"),
        *("CSVDataset", "CSVDatasetV2", "ExperimentalCSVDataset", "LMDBDataset", "ExperimentalLMDBDataset"),
        # A database is a file, too.
        *("SqlDataset", "ExperimentalSqlDataset"),
        *("SaveDataset", "SaveDatasetV2", "LoadDataset", "CacheDataset", "CacheDatasetV2"),
        *("SnapshotDataset", "SnapshotDatasetV2", "SnapshotDatasetReader", "SnapshotNestedDatasetReader"),
        *("SnapshotChunkDataset", "ListSnapshotChunksDataset"),
        *("LoadAndRemapMatrix", "GenerateVocabRemapping", "FixedUnigramCandidateSampler", "Skipgram"),
        *("DTensorRestoreV2", "CalibrationStatisticsSaver", "DumpTensor"),
    }
)
_SUMMARIES = frozenset(
    {
        *("SummaryWriter", "CreateSummaryFileWriter", "CreateSummaryDbWriter", "CloseSummaryWriter"),
        *("FlushSummaryWriter", "ImportEvent", "StatsAggregatorSetSummaryWriter"),
        *("WriteSummary", "WriteAudioSummary", "WriteGraphSummary", "WriteHistogramSummary", "WriteImageSummary"),
        *("WriteRawProtoSummary", "WriteScalarSummary"),
    }
)
# What has `debug_urls` sends tensors to file:// and grpc:// addresses.
_NETWORK = frozenset(
    {
        *("DebugIdentity", "DebugIdentityV2", "DebugIdentityV3", "DebugNanCount", "DebugNumericSummary"),
        *("RpcCall", "RpcCheckStatus", "RpcClient", "RpcGetValue", "DeleteRpcFutureResource"),
        *("RpcServer", "RpcServerRegister", "RpcServerStart"),
        *("DataServiceDataset", "DataServiceDatasetV2", "DataServiceDatasetV3", "DataServiceDatasetV4"),
        *("RegisterDataset", "RegisterDatasetV2", "DistributedSave"),
    }
)
# A dataset from a graph in a text runs ops that no list of the graph's own has.
_PROCESS = frozenset(
    {"PyFunc", "PyFuncStateless", "EagerPyFunc", "Print", "PrintV2", "Abort", "DatasetFromGraph"},
)

DENIED = _FILES | _SUMMARIES | _NETWORK | _PROCESS
