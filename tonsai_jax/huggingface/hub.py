"""Sends an exported folder to the Hugging Face Hub."""

from pathlib import Path

from tonsai_jax.errors import UserError


def push_to_hub(folder: Path, repo_id: str) -> str:
    """Uploads `folder` as the model `repo_id` ("USER/NAME"), which is created if needed; returns its address.

    Raises `UserError` if the Hub cannot be reached or this user cannot write there.
    """
    from huggingface_hub import HfApi  # imported here because it takes seconds

    if repo_id.count("/") != 1:
        raise UserError(
            f"--push-to-hub {repo_id!r}: not a name on the Hub; write it as USER/NAME, for instance sokha/khmer-gpt2"
        )
    api = HfApi()
    try:
        address = api.create_repo(repo_id, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message="Export of a model trained with tonsai_jax"
        )
    except Exception as error:  # network, token and Hub errors have no common parent
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{repo_id}: cannot be uploaded to the Hugging Face Hub ({reason}); the export in {folder} is complete. "
            "Check the network and `hf auth login`, then run the same command again"
        ) from None
    return str(address)
