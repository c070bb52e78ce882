package oci

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/banger-vm/banger/internal/fault"
)

// Platform is what an image is for, in the names of Go (GOOS, GOARCH), as in the OCI image index.
type Platform struct {
	OS           string
	Architecture string
	Variant      string // "" for most; "v7" of arm, "v3" of amd64
}

// ParsePlatform reads os/arch or os/arch/variant. The kernel's names of architectures are translated. An error is a
// fault.Usage, or a fault.Platform for an os other than linux, which banger has no kernel for.
func ParsePlatform(s string) (Platform, error) {
	parts := strings.Split(strings.ToLower(s), "/")
	if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
		err := fmt.Errorf("reading the platform %q: not of the form os/arch or os/arch/variant", s)
		return Platform{}, fault.New(fault.Usage, err, "write it as in linux/amd64")
	}
	p := Platform{OS: parts[0], Architecture: parts[1]}
	if p.OS != "linux" {
		err := fmt.Errorf("reading the platform %q: banger only runs images for linux, not for %s", s, p.OS)
		return Platform{}, fault.New(fault.Platform, err, "write it as in linux/amd64")
	}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p.canonical(), nil
}

// String returns what ParsePlatform reads.
func (p Platform) String() string {
	if p.Variant == "" {
		return p.OS + "/" + p.Architecture
	}
	return p.OS + "/" + p.Architecture + "/" + p.Variant
}

// canonical translates the kernel's names and drops the variants that say nothing: v8 is the only arm64 there was for
// long, and v1 any amd64.
func (p Platform) canonical() Platform {
	switch p.Architecture {
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "aarch64":
		p.Architecture = "arm64"
	}
	switch p.Architecture + "/" + p.Variant {
	case "arm64/v8", "amd64/v1":
		p.Variant = ""
	}
	return p
}

func platformOf(p ocispec.Platform) Platform {
	return Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}.canonical()
}

// orElse fills in what a configuration does not say with what is wanted, as docker does.
func (p Platform) orElse(want Platform) Platform {
	if p.OS == "" {
		p.OS = want.OS
	}
	if p.Architecture == "" {
		p.Architecture, p.Variant = want.Architecture, orElse(p.Variant, want.Variant)
	}
	return p
}

// runs reports whether an image for p can be used where q is wanted.
func (p Platform) runs(q Platform) bool { return p.rank(q) >= 0 }

// rank returns how far an image for p is from q, which is wanted: 0 is the very one. A negative rank does not run.
// Without a wanted variant, any will do.
func (p Platform) rank(q Platform) int {
	switch {
	case p.OS != q.OS || p.Architecture != q.Architecture:
		return -1
	case q.Variant == "":
		return 0
	}
	return slices.Index(q.variants(), p.Variant)
}

// variants are those that run where p does, p's own first and the least demanding at last: an arm runs what is for the
// ones before it, to v5, and an amd64, too, to v1 (containerd, platforms.Only). What says nothing is taken at last, as
// podman takes it.
func (p Platform) variants() []string {
	variants := []string{p.Variant}
	least := map[string]int{"arm": 5, "amd64": 2}[p.Architecture]
	version, err := strconv.Atoi(strings.TrimPrefix(p.Variant, "v"))
	if err == nil && least > 0 && version <= 9 {
		for version--; version >= least; version-- {
			variants = append(variants, "v"+strconv.Itoa(version))
		}
	}
	return append(variants, "")
}

// candidate is an image of an index.
type candidate struct {
	descriptor ocispec.Descriptor
	platform   Platform
}

// choose returns the candidate for the platform, and of several the first: the one with the nearest variant, or, where
// none is wanted, with the least demanding one. nil says that there is none.
func choose(candidates []candidate, want Platform) *candidate {
	var fit []candidate
	for _, c := range candidates {
		if c.platform.runs(want) {
			fit = append(fit, c)
		}
	}
	slices.SortStableFunc(fit, func(a, b candidate) int {
		nearer := cmp.Compare(a.platform.rank(want), b.platform.rank(want))
		return cmp.Or(nearer, cmp.Compare(a.platform.Variant, b.platform.Variant))
	})
	if len(fit) == 0 {
		return nil
	}
	return &fit[0]
}

// noPlatform is the error for an index without the platform.
func noPlatform(want Platform, candidates []candidate) error {
	var have []string
	for _, c := range candidates {
		have = append(have, printable(c.platform.String()))
	}
	slices.Sort(have)
	have = slices.Compact(have)
	if len(have) == 0 {
		return fault.New(fault.Platform, fmt.Errorf("choosing the platform %s: the index has no images", want), "")
	}
	err := fmt.Errorf("choosing the platform %s: the image is only for %s", want, strings.Join(have, ", "))
	return fault.New(fault.Platform, err, "pass --platform with one that the image is for")
}
