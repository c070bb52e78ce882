// Package internal_test checks that the packages import only what ARCHITECTURE.md allows.
package internal_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/banger-vm/banger/"

// allowed are the arrows of ARCHITECTURE.md: a package, and what it may import of this project.
var allowed = map[string][]string{
	"cmd/banger":              {"internal/engine", "internal/fault", "internal/guest/embedded", "internal/guest/exec", "internal/imagepull", "internal/kernel"},
	"cmd/banger-guest":        {"internal/guest/agent"},
	"internal/engine":         {"internal/fault", "internal/guest", "internal/guest/embedded", "internal/guest/exec", "internal/imagepull", "internal/kernel", "internal/layer", "internal/oci", "internal/rootfs", "internal/store", "internal/system", "internal/vm", "internal/vm/qemu"},
	"internal/imagepull":      {"internal/fault", "internal/guest", "internal/layer", "internal/oci", "internal/rootfs", "internal/system"},
	"internal/kernel":         {"internal/fault", "internal/layer", "internal/lock", "internal/rootfs"},
	"internal/guest":          {"internal/fault", "internal/layer", "internal/rootfs"},
	"internal/guest/embedded": {"internal/fault"},
	"internal/guest/agent":    {"internal/guest/channel", "internal/guest/exec"},
	"internal/guest/exec":     {},
	"internal/guest/channel":  {},
	"internal/rootfs":         {"internal/fault", "internal/layer"},
	"internal/oci":            {"internal/fault"},
	"internal/layer":          {"internal/fault", "internal/lock"},
	"internal/store":          {"internal/fault", "internal/lock"},
	"internal/system":         {"internal/fault"},
	"internal/lock":           {},
	"internal/fault":          {},
	"internal/vm":             {"internal/fault"},
	"internal/vm/qemu":        {"internal/fault", "internal/guest/channel", "internal/guest/exec", "internal/system", "internal/vm"},
}

func TestLayering(t *testing.T) {
	for _, pkg := range listPackages(t) {
		name := strings.TrimPrefix(pkg.ImportPath, module)
		want, known := allowed[name]
		if !known {
			if len(pkg.GoFiles) > 0 {
				t.Errorf("package %s is not in the table of allowed imports: add it there and in ARCHITECTURE.md", name)
			}
			continue
		}
		for _, imported := range pkg.Imports {
			own, ours := strings.CutPrefix(imported, module)
			if ours && !slices.Contains(want, own) {
				t.Errorf("package %s imports %s, which ARCHITECTURE.md does not allow", name, own)
			}
		}
	}
}

// TestGuestLinksNoHostCode: the agent carries nothing that it does not need inside a VM.
func TestGuestLinksNoHostCode(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "../cmd/banger-guest").Output()
	if err != nil {
		t.Fatalf("listing what the agent links: %v", err)
	}
	for _, dep := range strings.Fields(string(out)) {
		own, ours := strings.CutPrefix(dep, module)
		if ours && own != "cmd/banger-guest" && !strings.HasPrefix(own, "internal/guest/") {
			t.Errorf("the agent links %s, which is code of the host", own)
		}
	}
}

type goPackage struct {
	ImportPath string
	GoFiles    []string
	Imports    []string
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,GoFiles,Imports", "../...").Output()
	if err != nil {
		t.Fatalf("listing the packages: %v", err)
	}
	var packages []goPackage
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var pkg goPackage
		err := decoder.Decode(&pkg)
		if errors.Is(err, io.EOF) {
			return packages
		}
		if err != nil {
			t.Fatalf("reading the list of packages: %v", err)
		}
		packages = append(packages, pkg)
	}
}
