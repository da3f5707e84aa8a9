from medray.config.data import DataConfig


def test_a_resolved_config_means_what_the_written_one_meant() -> None:
    written = DataConfig.model_validate({"train": "x.jsonl", "columns": {"label": "note"}})
    resolved = DataConfig.model_validate(written.model_dump(mode="json"))
    assert resolved.columns.model_fields_set == written.columns.model_fields_set == {"label"}
