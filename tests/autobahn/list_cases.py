"""Run by Python 2.7, in the suite's environment: writes all its cases as JSON, in its order."""

import json
import sys

from autobahntestsuite.case import CaseBasename, CaseCategories, Cases, CaseSetname, CaseSubCategories
from autobahntestsuite.caseset import CaseSet

cases = CaseSet(CaseSetname, CaseBasename, Cases, CaseCategories, CaseSubCategories)
found = [
    {
        "id": cases.caseClasstoId(case),
        "group": CaseCategories[str(cases.caseClasstoIdTuple(case)[0])],
        "description": " ".join(case.DESCRIPTION.split()),
        "module": case.__module__.rpartition(".")[2],
    }
    for case in Cases
]
sys.stdout.write(json.dumps(found))
