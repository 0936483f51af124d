# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules that write files take."""

from __future__ import annotations


class ModuleDocFragment:
    """The options whose arguments are in plugins/module_utils/files.py."""

    DOCUMENTATION = r"""
description:
  - Files are written in the order of the list, each replaced in one step, with its owner and mode set beforehand.
  - Contents given as O(files[].secret) appear neither in diffs nor in logs.
options:
  folders:
    description: Folders to have. Missing ones above them are made too, for root and with mode 0755.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      owner:
        description: Owning user.
        type: str
        default: root
      group:
        description: Owning group.
        type: str
        default: root
      mode:
        description: Mode as an octal number in quotes.
        type: str
        default: "0755"
      marked:
        description: Whether it bears the toolkit's mark, the file C(.pacs), without which nothing is removed there.
        type: bool
        default: false
  files:
    description: Files to have. Their folders have to be there or in O(folders).
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      content:
        description:
          - What the file holds. Give this, O(files[].template), O(files[].secret), O(files[].secret_template),
            O(files[].made_by) or O(files[].link).
        type: str
      template:
        description: Template of the role, which is rendered to O(files[].content) on the control node.
        type: str
      link:
        description: What the path is a symbolic link to.
        type: str
      made_by:
        description: >-
          Shell command that makes the file where it is missing, or where O(files[].validate) fails. Otherwise only
          owner and mode are set.
        type: str
      secret:
        description: What the file holds, if it must not be shown.
        type: str
      secret_template:
        description: Template of the role, which is rendered to O(files[].secret) on the control node.
        type: str
      item:
        description: What the template of this file has under this name, where one template makes several files.
        type: raw
      owner:
        description: Owning user.
        type: str
        default: root
      group:
        description: Owning group.
        type: str
        default: root
      mode:
        description: Mode as an octal number in quotes.
        type: str
        default: "0644"
      validate:
        description: >-
          Command that must succeed before the file is replaced; C(%s) stands for the candidate, and for the file itself
          with O(files[].made_by).
        type: str
      unless:
        description: With O(files[].link), make it only where nothing is, neither there nor at this path.
        type: path
  template_vars:
    description: Further variables for the templates.
    type: dict
    default: {}
  once:
    description:
      - Names of variables that are worked out once, in this order, for the templates and for O(by_name).
      - Ansible works a variable out anew wherever another one mentions it, which adds up to a second and more.
    type: list
    elements: str
    default: []
  by_name:
    description: Further options of this module, each with the name of the variable that has its value.
    type: dict
    default: {}
  purge:
    description:
      - Folders in which no other plain files may be than the given ones. Folders in them stay as they are.
      - They bear the toolkit's mark. One without it is taken over if it is directly below C(/etc/pacs), or holds none
        but the given files; otherwise nothing is changed.
    type: list
    elements: path
    default: []
  absent:
    description: Files and links that may not be there.
    type: list
    elements: path
    default: []
  restart:
    description: Services that are restarted at once when a file has changed, by the path of that file.
    type: dict
    default: {}
attributes:
  action:
    description: Renders the templates on the control node.
    support: full
  diff_mode:
    description: Shows the difference of every file whose content is no secret.
    support: full
"""
