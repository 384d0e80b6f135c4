"""Pushes an adapter's file and its card to a repository of the Hugging Face Hub, and pulls them from one."""

import contextlib
import hashlib
import re
import tempfile
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors

from unilora_spec import UniLoraError, WorkFailed, load_adapter
from unilora_spec.command import say
from unilora_spec.documents import read_bytes
from unilora_spec.placing import placing

from ...runs.outputs import check_place
from .card import card_beside, is_free

FILE, CARD = "unilora.safetensors", "README.md"
OF_FILE = re.compile(rb"^\| File \| .*SHA-256 ([0-9a-f]{64})", re.MULTILINE)


def push(adapter: Path, to: str, private: bool = False, card: bool = True) -> dict:
    """Uploads an adapter's file as ``unilora.safetensors``, and the card beside it as README.md, to the repository ``to``, which is made
    where there is none.

    Raises ``UniLoraError`` where the file is no adapter, the card is another file's, the id is invalid or nobody is
    logged in, and ``WorkFailed`` where the hub cannot be reached or refuses.
    """
    load_adapter(adapter)
    content, beside = adapter.read_bytes(), card_beside(adapter)
    files = {FILE: content}
    if card and beside.exists():
        files[CARD] = read_bytes(beside)
        recorded = OF_FILE.search(files[CARD])
        if recorded and recorded[1].decode() != hashlib.sha256(content).hexdigest():
            raise UniLoraError(f"{beside} is the card of another file than {adapter}; give its own, or --no-card")
    with _hub(to):
        huggingface_hub.utils.validate_repo_id(to)
        if huggingface_hub.constants.HF_HUB_OFFLINE:
            raise errors.OfflineModeIsEnabled
        if not huggingface_hub.get_token():
            raise errors.LocalTokenNotFoundError
        say(f"pushing {adapter} to {to}")
        api = huggingface_hub.HfApi()
        api.create_repo(to, private=private or None, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            for name, data in files.items():
                (Path(folder) / name).write_bytes(data)
            commit = api.upload_folder(repo_id=to, folder_path=folder, commit_message="Uni-LoRA adapter")
    return {"repository": to, "files": {name: len(data) for name, data in files.items()}, "commit": commit.oid}


def pull(repository: str, output: Path, revision: str | None = None, file: str = FILE) -> dict:
    """Downloads an adapter's file from a repository to ``output``, and its card beside it unless a card that somebody
    has changed is there.

    Nothing is written before the whole file has been read as an adapter. Raises ``UniLoraError`` where the id is
    invalid, or the repository has no such file or no adapter in it, and ``WorkFailed`` where the hub cannot be reached.
    """
    check_place(output, "--output", {})
    with _hub(repository, file):
        huggingface_hub.utils.validate_repo_id(repository)
        say(f"pulling {file} of {repository}")
        found = Path(huggingface_hub.hf_hub_download(repository, file, revision=revision))
        card = None
        with contextlib.suppress(errors.EntryNotFoundError):
            card = read_bytes(Path(huggingface_hub.hf_hub_download(repository, CARD, revision=revision)))
    try:
        adapter = load_adapter(found)
    except UniLoraError as error:
        raise UniLoraError(f"{repository}: {file} is no adapter: {error.message.removeprefix(f'{found}: ')}") from error
    beside = card_beside(output)
    with_card = card is not None and is_free(beside)
    with placing(output) as folder:
        (folder / output.name).write_bytes(found.read_bytes())
        if with_card:
            (folder / beside.name).write_bytes(card)
    return {
        "output": str(output),
        "bytes": output.stat().st_size,
        "card": str(beside) if with_card else None,
        "d": adapter.projection.d,
        "base": adapter.base and adapter.base.name,
    }


@contextlib.contextmanager
def _hub(repository: str, file: str = FILE):
    """Within the block, turns errors of the hub's library into one sentence each."""
    try:
        yield
    except errors.HFValidationError:
        raise UniLoraError(f"{repository!r:.120} is no id of the hub; give NAME/REPOSITORY") from None
    except errors.LocalTokenNotFoundError:
        raise UniLoraError("nobody is logged in to the hub; run `hf auth login`, or set HF_TOKEN") from None
    except errors.RepositoryNotFoundError as error:
        raise UniLoraError(
            f"{repository}: the hub has no such repository, or one that is not open to you; give another id, or log in by `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UniLoraError(f"{repository}: there is no such revision; give another --revision") from error
    except errors.RemoteEntryNotFoundError as error:
        raise UniLoraError(f"{repository}: there is no file {file} in it; give --file its name") from error
    except (errors.HTTPError, errors.LocalEntryNotFoundError, ConnectionError) as error:
        if huggingface_hub.constants.HF_HUB_OFFLINE:
            raise WorkFailed(f"{repository}: HF_HUB_OFFLINE is set, which keeps this from the hub; unset it") from error
        cause = str(error.__cause__ or error).strip().split("\n")[0]
        raise WorkFailed(f"{repository}: the hub could not be reached, or refuses: {cause:.200}") from error
