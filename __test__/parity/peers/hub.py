"""Downloads with huggingface_hub, or asks it what its cache holds; answers as one line of JSON."""

import json
import sys

from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download, try_to_load_from_cache

task, repo, *rest = sys.argv[1:]
if task == "download":
    answer = snapshot_download(repo, allow_patterns=["*.json", "*.safetensors"])
elif task == "cached":
    answer = {
        "snapshot": snapshot_download(repo, local_files_only=True),
        "config": try_to_load_from_cache(repo, "config.json"),
        "weights": hf_hub_download(repo, "model.safetensors", local_files_only=True),
        "absent": try_to_load_from_cache(repo, "absent.json"),
    }
elif task == "scan":
    cache = scan_cache_dir()
    answer = {
        "warnings": [str(warning) for warning in cache.warnings],
        "repos": [
            {
                "repoId": found.repo_id,
                "sizeOnDisk": found.size_on_disk,
                "revisions": [
                    {"commitHash": revision.commit_hash, "refs": sorted(revision.refs), "sizeOnDisk": revision.size_on_disk}
                    for revision in sorted(found.revisions, key=lambda each: each.commit_hash)
                ],
            }
            for found in cache.repos
        ],
    }
print(json.dumps(answer))
