"""Prints the table of a conformance run, and fails on what `exclusions` does not explain or explains in vain."""

import collections
import fnmatch
import sys

PEERS = {"bare", "bare-user", "juicefs"}

# Its tests are skipped by the type of file system: most want a block device.
SELECTIVE = {"xfstests"}


def read_exclusions(path):
    """Returns (suite, modes, test, reason) rows, and those of them that are not needed every time (`?` before the modes)."""
    rows, sometimes = [], set()
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.strip() and not line.startswith("#"):
                suite, modes, test, reason = line.split(None, 3)
                rows.append((suite, modes.removeprefix("?"), test, reason.strip()))
                if modes.startswith("?"):
                    sometimes.add(rows[-1])
    return rows, sometimes


def main(found_path, exclusions_path):
    exclusions, sometimes = read_exclusions(exclusions_path)
    found = collections.OrderedDict()
    with open(found_path, encoding="utf-8") as file:
        for line in file:
            suite, mode, test, result = line.rstrip("\n").split("\t")
            found[suite, mode, test] = result

    counts = collections.OrderedDict()
    problems, used = [], set()
    for (suite, mode, test), result in found.items():
        count = counts.setdefault((suite, mode), collections.Counter())
        result = "passed" if result == "ok" else result
        bare = found.get((suite, "bare", test), "ok")
        if mode == "user":
            bare = found.get((suite, "bare-user", test), bare)
        user_alone = mode == "user" and (suite, "bare-user", test) not in found
        excluded = [
            row for row in exclusions if row[0] == suite and row[2] == test and fnmatch.fnmatch(mode, row[1])
        ]
        if mode not in PEERS and result in ("failed", "skipped") and bare == "ok":
            if excluded:
                used.update(excluded)
                result = "excluded"
            elif result == "failed" or not (user_alone or suite in SELECTIVE):
                # An ordinary user may run less than root did on the bare disk; a skip says nothing then.
                problems.append(f"{suite} {test} on {mode}: {result}, and passes on the bare disk")
        count[result] += 1

    ran = {(suite, mode) for suite, mode, test in found if test != "-"}
    for row in exclusions:
        matches = [mode for suite, mode in ran if suite == row[0] and mode not in PEERS and fnmatch.fnmatch(mode, row[1])]
        if matches and row not in used | sometimes:
            problems.append(f"exclusion of {row[0]} {row[2]} on {row[1]} is not needed any more")

    columns = ("passed", "failed", "skipped", "excluded")
    print("| suite | mode | " + " | ".join(columns) + " |")
    print("|---|---|" + "---|" * len(columns))
    for (suite, mode), count in counts.items():
        if count["absent"]:
            print(f"| {suite} | {mode} | not run: not installed, not given, or not for this user | | | |")
        else:
            print(f"| {suite} | {mode} | " + " | ".join(str(count[name]) for name in columns) + " |")
    for row in sorted(used):
        print(f"excluded: {row[0]} {row[2]} on {row[1]}: {row[3]}")
    for (suite, mode, test), result in found.items():
        if result == "failed":
            print(f"failed: {suite} {test} on {mode}")
    for problem in problems:
        print(f"PROBLEM: {problem}")
    return 1 if problems else 0


sys.exit(main(sys.argv[1], sys.argv[2]))
