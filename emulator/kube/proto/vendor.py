#!/usr/bin/env python3
"""Makes the .proto files of this folder from the Go modules k8s.io/api and k8s.io/apimachinery (Apache-2.0).

    ./vendor.py GOMODCACHE/k8s.io/api@v0.36.3 GOMODCACHE/k8s.io/apimachinery@v0.36.3

The originals are proto2 with every field `optional`. Go writes a field that is no pointer also when it is zero, and leaves a nil
pointer out; only the Go types tell which is which. So the copies are proto3: `optional` where Go has a pointer, no label where it
has a value, whose zero then counts as absent. Comments go, and Kubernetes' go_package options.
"""
import pathlib, re, sys

API, MACHINERY = map(pathlib.Path, sys.argv[1:3])
PACKAGES = [(API, f"k8s.io/api/{p}", p) for p in (
    "core/v1", "storage/v1", "apps/v1", "batch/v1", "coordination/v1", "authorization/v1", "authentication/v1", "policy/v1",
    "autoscaling/v1")]
PACKAGES += [(MACHINERY, f"k8s.io/apimachinery/{p}", p) for p in (
    "pkg/api/resource", "pkg/apis/meta/v1", "pkg/runtime", "pkg/runtime/schema", "pkg/util/intstr")]
inlined = set()
plain = set()
for root, name, path in PACKAGES:
    pointers = {}
    struct = None
    for file in sorted((root / path).glob("*.go")):
        if file.name.endswith(("_test.go", "generated.pb.go")):
            continue
        for line in file.read_text().splitlines():
            if m := re.match(r"type (\w+) struct {", line):
                struct = m[1]
            elif m := re.match(r"\s+(?:\w+\s+)?(\S+)\s+`.*protobuf:\"[^\"]*name=(\w+)", line):
                json = re.search(r'json:"([^"]*)"', line)
                if json and json[1] == ",inline":
                    inlined.add(m[2])
                else:
                    plain.add(m[2])
                    if json and json[1].split(",")[0] != m[2]:
                        print("renamed:", name, struct, m[2], json[1])
                pointers[(struct, m[2])] = m[1].startswith("*")
    out, message = ['syntax = "proto3";'], None
    for line in (root / path / "generated.proto").read_text().splitlines():
        line = "" if line.lstrip().startswith("//") else re.split(r"\s//", line)[0].rstrip()
        if not line or line.startswith(("syntax", "option go_package")):
            continue
        if m := re.match(r"message (\w+)", line):
            message = m[1]
        if m := re.match(r"(\s+)optional (\S+ (\w+) = .*)", line):
            scalar = re.match(r"(string|bool|bytes|double|float|u?s?int(32|64)|s?fixed(32|64)) ", m[2])
            keep = scalar and pointers.get((message, m[3]), False)
            line = m[1] + ("optional " if keep else "") + m[2]
        out.append(line)
    target = pathlib.Path(__file__).parent / name / "generated.proto"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(out) + "\n")
print("inlined:", sorted(inlined), "ambiguous:", sorted(inlined & plain))
