"""Downloads a model, or its tokenizer, from the Hugging Face Hub into its cache, from which later calls take it."""

import re
from pathlib import Path

from tonsai_jax.errors import TemporaryError, UserError

HUB = "hf:"  # in front of the name of a model of the Hub
# What a model in Hugging Face format consists of. Files in subfolders are other formats of the same model.
_TOKENIZER_FILES = ["*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt"]
_WEIGHTS = "*.safetensors"
_SUBFOLDERS = ["*/*"]
# Of Python, requests and httpx, one of which the Hub's library uses; they have no common parent.
_NETWORK_ERRORS = {"ConnectionError", "Timeout", "TimeoutError", "TransportError"}


def tokenizer_folder(where: str) -> str:
    """The folder of a tokenizer: that of the model "hf:ORG/NAME", downloaded, or `where` itself; raises as `download`."""
    return str(download(where.removeprefix(HUB), weights=False)) if where.startswith(HUB) else where


def download(name: str, *, weights: bool = True) -> Path:
    """The folder of a model in the cache of the Hub, complete.

    Args:
      name: "ORG/NAME", or "ORG/NAME@REVISION" for a branch, a tag or a commit.
      weights: whether they are needed, and not only config and tokenizer.

    Raises `UserError` for a name that is none, a model that does not exist or that this user may not read, weights that are no
    safetensors; a `TemporaryError` where the Hub cannot be reached or fails.
    """
    repo_id, _, revision = name.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise UserError(
            f"hf:{name}: not a model of the Hub; write hf:ORG/NAME, for instance hf:HuggingFaceTB/SmolLM2-135M"
        )
    from huggingface_hub import snapshot_download  # imported here because it takes seconds
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page = f"https://huggingface.co/{repo_id}"
    files = [*_TOKENIZER_FILES, _WEIGHTS] if weights else _TOKENIZER_FILES
    try:
        folder = Path(
            snapshot_download(repo_id, revision=revision or None, allow_patterns=files, ignore_patterns=_SUBFOLDERS)
        )
    except GatedRepoError:
        raise UserError(
            f"hf:{name}: its owners ask you to accept their terms first, at {page}; then make a token with read access at "
            "https://huggingface.co/settings/tokens and give it to `hf auth login` (or set HF_TOKEN)"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"hf:{name}: no such model at {page}, or a private one; check the name, and for a private model run `hf auth login`"
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"hf:{name}: this model has no revision {revision!r}; see {page}/commits") from None
    except Exception as error:
        # Where not even the list of files comes, the library raises its own error from that of the network.
        cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
        may_pass = _may_pass(cause)
        if not may_pass and not isinstance(error, HfHubHTTPError | OSError):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise (TemporaryError if may_pass else UserError)(
            f"hf:{name}: cannot be downloaded ({reason}); check the network and run the same command again, what is already "
            "there is kept. Without a network, download it elsewhere (`hf download`) and give the folder"
        ) from None
    if weights and not list(folder.glob(_WEIGHTS)):
        raise UserError(
            f"hf:{name}: has no weights as safetensors, and other formats can run programs when they are opened; look for a "
            f"branch with them at {page}, or convert them with transformers (save_pretrained) and give the folder"
        )
    return folder


def _may_pass(error: BaseException) -> bool:
    """Whether another try may help: there was no answer, or one that speaks of a fault of the Hub or of too many requests."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return bool(status >= 500 or status == 429)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & _NETWORK_ERRORS) and "OfflineModeIsEnabled" not in kinds  # a setting of the user
