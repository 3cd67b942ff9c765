"""Puts the pages that are made from the catalogue into the site."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from docs.pages import PICTURES, catalogue_pages, navigation


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Sets the navigation and notices changes of what pages are made from."""
    config.nav = navigation()
    root = Path(config.config_file_path).parent
    config.watch += [str(root / name) for name in ("pinakes", "docs", "results")]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages and the pictures."""
    for path, text in catalogue_pages().items():
        files.append(File.generated(config, path, content=text))
    for picture in sorted(PICTURES.glob("*.webp")):
        files.append(File.generated(config, f"pictures/{picture.name}", abs_src_path=str(picture)))
    return files
