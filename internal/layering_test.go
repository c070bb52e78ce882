// Package internal_test checks that the packages import only what ARCHITECTURE.md allows.
package internal_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/banger-vm/banger/"

// allowedArrows reads the list of ARCHITECTURE.md: a package, and what it may import of this project.
func allowedArrows(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile("../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string][]string{}
	_, section, _ := strings.Cut(string(text), "## Which package may import which")
	section, _, _ = strings.Cut(section, "\n## ")
	for _, line := range strings.Split(section, "\n") {
		from, to, isArrow := strings.Cut(line, "→")
		if !isArrow {
			continue
		}
		for _, name := range names(from) {
			allowed[name] = names(to)
		}
	}
	if len(allowed) == 0 {
		t.Fatal("ARCHITECTURE.md has no list of arrows")
	}
	return allowed
}

// names splits a list of packages; what is not below cmd/, and not docs, is below internal/.
func names(list string) []string {
	var names []string
	for _, name := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' }) {
		if !strings.HasPrefix(name, "cmd/") && name != "docs" {
			name = "internal/" + name
		}
		names = append(names, name)
	}
	return names
}

func TestLayering(t *testing.T) {
	allowed := allowedArrows(t)
	for _, pkg := range listPackages(t) {
		name := strings.TrimPrefix(pkg.ImportPath, module)
		want, known := allowed[name]
		if !known {
			if len(pkg.GoFiles) > 0 {
				t.Errorf("package %s is not in the list of ARCHITECTURE.md", name)
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
