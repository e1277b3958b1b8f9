"""Sends an exported folder to the Hugging Face Hub."""

import shlex
from pathlib import Path

from tonsai_jax.errors import UserError
from tonsai_jax.huggingface.export import check_export

MESSAGE = "Export of a model trained with tonsai_jax"


def check_repo_id(repo_id: str) -> None:
    """Raises `UserError` for a name that is not USER/NAME."""
    if repo_id.count("/") != 1:
        raise UserError(
            f"--push-to-hub {repo_id!r}: not a name on the Hub; write it as USER/NAME, for instance sokha/khmer-gpt2"
        )


def push_to_hub(
    folder: Path, repo_id: str, *, private: bool = False, revision: str | None = None, message: str | None = None
) -> str:
    """Uploads `folder` as the model `repo_id` ("USER/NAME"), which is created if needed; returns its address.

    Args:
      folder: a complete export.
      repo_id: the model's name on the Hub.
      private: whether only its owners can see the model.
      revision: the branch to upload to, created if needed; None for the main branch.
      message: of the commit.

    Raises `UserError` if the folder is not a complete export, if the Hub cannot be reached or this user cannot write there, and
    if the model must be private but exists and is public.
    """
    check_repo_id(repo_id)
    check_export(folder)
    from huggingface_hub import HfApi  # imported here because it takes seconds

    api = HfApi()
    try:
        address = api.create_repo(repo_id, private=private or None, exist_ok=True)
        if private and not api.model_info(repo_id).private:
            raise UserError(
                f"{repo_id}: exists on the Hub and is public, so nothing was uploaded; make it private in its settings "
                "there, or leave out --private"
            )
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, revision=revision, commit_message=message or MESSAGE)
    except UserError:
        raise
    except Exception as error:  # network, token and Hub errors have no common parent
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        again = ["--output-dir", str(folder), "--push-to-hub", repo_id]
        again += ["--private"] * private
        again += ["--revision", revision] if revision else []
        again += ["--commit-message", message] if message else []
        raise UserError(
            f"{repo_id}: cannot be uploaded to the Hugging Face Hub ({reason}); the export in {folder} is complete. "
            "Check the network and `hf auth login`, then upload it, without exporting again: "
            f"tonsai export {shlex.join(again)}"
        ) from None
    return str(address)
