"""Reads SavedModels with protobuf alone: signatures, ops, variables, assets."""
