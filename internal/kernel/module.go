package kernel

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/rootfs"
)

// module is one loadable module, as its ELF file describes it.
type module struct {
	name    string // as the kernel has it: without ".ko", and with "_" for each "-"
	path    string // below lib/modules/RELEASE
	node    *rootfs.Node
	info    []infoField // of .modinfo, in its order
	depends []string    // names of the modules whose symbols it uses
	symbols []string    // that it exports
}

// infoField is one "key=value" of the section .modinfo (include/linux/moduleparam.h, __MODULE_INFO).
type infoField struct{ key, value string }

// values returns all values of a key, in order.
func (m *module) values(key string) []string {
	var values []string
	for _, field := range m.info {
		if field.key == key {
			values = append(values, field.value)
		}
	}
	return values
}

// moduleName returns the name that a module's file gives it.
func moduleName(file string) string {
	return underscores(strings.TrimSuffix(path.Base(file), ".ko"))
}

func underscores(name string) string { return strings.ReplaceAll(name, "-", "_") }

// moduleSet are the modules of one kernel, in the order in which depmod numbers them, and what is built into it.
type moduleSet struct {
	modules []*module
	byName  map[string]*module
	aliases map[string][]*module // exact aliases only
	builtIn map[string]bool
	// builtInInfo has the fields of modules.builtin.modinfo as "name.key=value".
	builtInInfo []string
}

// readModules reads the modules below a directory lib/modules/RELEASE.
func readModules(dir *rootfs.Node, release string) (*moduleSet, error) {
	set := &moduleSet{byName: map[string]*module{}, aliases: map[string][]*module{}, builtIn: map[string]bool{}}
	err := walk(dir, "", func(name string, node *rootfs.Node) error {
		if node.Kind != rootfs.Regular || !strings.HasSuffix(name, ".ko") {
			return nil
		}
		m, err := readModule(name, node, release)
		if err != nil {
			return fmt.Errorf("reading the module %q: %w", name, err)
		}
		set.add(m)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return set, set.readLists(dir)
}

// add puts a module into the set. Of two with one name the one below updates/ wins (depmod.d(5), "search").
func (s *moduleSet) add(m *module) {
	if old := s.byName[m.name]; old == nil || !strings.HasPrefix(old.path, "updates/") && strings.HasPrefix(m.path, "updates/") {
		s.byName[m.name] = m
	}
}

// readLists reads the lists that the kernel's build makes: modules.order, modules.builtin, modules.builtin.modinfo.
func (s *moduleSet) readLists(dir *rootfs.Node) error {
	order, err := readList(dir, "modules.order", "\n")
	if err != nil {
		return err
	}
	s.sort(order)
	for _, m := range s.modules {
		for _, alias := range m.values("alias") {
			s.aliases[underscores(alias)] = append(s.aliases[underscores(alias)], m)
		}
	}
	names, err := readList(dir, "modules.builtin", "\n")
	if err != nil {
		return err
	}
	for _, name := range names {
		s.builtIn[moduleName(name)] = true
	}
	s.builtInInfo, err = readList(dir, "modules.builtin.modinfo", "\x00")
	return err
}

// maxList bounds the lists. The longest, of a kernel with everything, has a few hundred KiB.
const maxList = 16 << 20

// readList returns the non-empty elements of a list, or none if there is no such file.
func readList(dir *rootfs.Node, name, separator string) ([]string, error) {
	node := dir.Children[name]
	if node == nil || node.Kind != rootfs.Regular {
		return nil, nil
	}
	text, err := io.ReadAll(io.LimitReader(content(node), maxList))
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", name, err)
	}
	fields := strings.Split(string(text), separator)
	return slices.DeleteFunc(fields, func(field string) bool { return field == "" }), nil
}

// sort numbers the modules as modules.order lists them, and those that it does not list after them, by path.
func (s *moduleSet) sort(order []string) {
	position := map[string]int{}
	for i, name := range order {
		position[name] = i + 1
	}
	s.modules = slices.SortedFunc(maps.Values(s.byName), func(a, b *module) int {
		i, j := position[a.path], position[b.path]
		switch {
		case i != 0 && j != 0:
			return i - j
		case i != 0 || j != 0:
			return j - i
		}
		return strings.Compare(a.path, b.path)
	})
}

// readModule reads what a module says of itself. One for another architecture or release is fault.Unsupported.
func readModule(name string, node *rootfs.Node, release string) (*module, error) {
	file, err := elf.NewFile(content(node))
	if err != nil {
		return nil, fault.New(fault.Corrupt, err, "")
	}
	if file.Machine != elf.EM_X86_64 || file.Type != elf.ET_REL {
		return nil, fault.New(fault.Unsupported, fmt.Errorf("it is for %v, not for x86-64", file.Machine), "")
	}
	m := &module{name: moduleName(name), path: name, node: node}
	strs, err := sectionStrings(file, ".modinfo")
	if err != nil {
		return nil, err
	}
	for _, s := range strs {
		if key, value, ok := strings.Cut(s, "="); ok {
			m.info = append(m.info, infoField{key, value})
		}
	}
	if m.symbols, err = exported(file); err != nil {
		return nil, err
	}
	for _, list := range m.values("depends") {
		for dep := range strings.FieldsFuncSeq(list, func(r rune) bool { return r == ',' }) {
			m.depends = append(m.depends, underscores(dep))
		}
	}
	return m, m.checkRelease(release)
}

// checkRelease compares the release in the module's vermagic, of which it is the first word.
func (m *module) checkRelease(release string) error {
	for _, magic := range m.values("vermagic") {
		if own, _, _ := strings.Cut(magic, " "); own != release {
			err := fmt.Errorf("it is for the kernel %q, and this is %q", own, release)
			return fault.New(fault.Unsupported, err, "give the modules that belong to the kernel")
		}
	}
	return nil
}

// sectionStrings returns the strings, each ended by NUL, of a section; none if there is no such section. The linker
// may put further NULs between them.
func sectionStrings(file *elf.File, name string) ([]string, error) {
	section := file.Section(name)
	if section == nil {
		return nil, nil
	}
	data, err := section.Data()
	if err != nil {
		return nil, fault.New(fault.Corrupt, fmt.Errorf("reading the section %s: %w", name, err), "")
	}
	var strs []string
	for s := range bytes.SplitSeq(data, []byte{0}) {
		if len(s) > 0 {
			strs = append(strs, string(s))
		}
	}
	return strs, nil
}

// exported returns the symbols that a module exports: each has an entry "__ksymtab_NAME" (include/linux/export.h).
func exported(file *elf.File) ([]string, error) {
	symbols, err := file.Symbols()
	if err != nil && !errors.Is(err, elf.ErrNoSymbols) {
		return nil, fault.New(fault.Corrupt, fmt.Errorf("reading the symbols: %w", err), "")
	}
	var names []string
	for _, symbol := range symbols {
		if name, ok := strings.CutPrefix(symbol.Name, "__ksymtab_"); ok {
			names = append(names, name)
		}
	}
	return names, nil
}

// closure returns all that m depends on, each module before those that use it, without m itself. A dependency that
// is not in the set is left out: it is built in, or in a package that was not given.
func (s *moduleSet) closure(m *module) []*module {
	order := s.visit(m, map[*module]bool{}, nil, (*moduleSet).hard)
	return order[:len(order)-1]
}

// loadOrder returns wanted and all that they need, soft dependencies included, each module before those that use it.
func (s *moduleSet) loadOrder(wanted []*module) []*module {
	seen := map[*module]bool{}
	var order []*module
	for _, m := range wanted {
		order = s.visit(m, seen, order, (*moduleSet).soft)
	}
	return order
}

func (s *moduleSet) visit(m *module, seen map[*module]bool, order []*module, needs func(*moduleSet, *module) []*module) []*module {
	if seen[m] {
		return order
	}
	seen[m] = true
	for _, dep := range needs(s, m) {
		order = s.visit(dep, seen, order, needs)
	}
	return append(order, m)
}

// hard returns the modules of the set whose symbols m uses.
func (s *moduleSet) hard(m *module) []*module {
	var deps []*module
	for _, name := range m.depends {
		if dep := s.byName[name]; dep != nil {
			deps = append(deps, dep)
		}
	}
	return deps
}

// soft returns what hard does, and before it what the module asks to be loaded before itself without using its
// symbols: a file system's checksum that it finds by name at run time (modprobe.d(5), "softdep").
func (s *moduleSet) soft(m *module) []*module {
	var deps []*module
	for _, value := range m.values("softdep") {
		pre := false
		for _, word := range strings.Fields(value) {
			if strings.HasSuffix(word, ":") {
				pre = word == "pre:"
			} else if pre {
				deps = append(deps, s.resolve(word)...)
			}
		}
	}
	return append(deps, s.hard(m)...)
}

// resolve returns the modules that modprobe would load for a name: the module, or all that have it as an alias.
func (s *moduleSet) resolve(name string) []*module {
	name = underscores(name)
	if m := s.byName[name]; m != nil {
		return []*module{m}
	}
	return s.aliases[name]
}
