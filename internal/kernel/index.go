package kernel

import (
	"bytes"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/banger-vm/banger/internal/rootfs"
)

// madeFiles returns the names of what depmod(8) makes, and indexes does.
func madeFiles() []string {
	return []string{"modules.dep", "modules.dep.bin", "modules.alias", "modules.alias.bin", "modules.symbols",
		"modules.symbols.bin", "modules.softdep", "modules.weakdep", "modules.devname", "modules.builtin.bin",
		"modules.builtin.alias.bin"}
}

func made(base string) bool { return slices.Contains(madeFiles(), base) }

// addIndexes adds the files that depmod(8) would make to the directory of a kernel's modules. modprobe of kmod reads
// the binary ones, that of busybox modules.dep, modules.alias and modules.symbols.
func (c *collection) addIndexes(release string, set *moduleSet, mtime time.Time) error {
	for base, data := range set.indexes() {
		node, err := c.store(bytes.NewReader(data), 0o644, mtime)
		if err != nil {
			return fmt.Errorf("writing %q: %w", base, err)
		}
		parent, base, err := c.place(path.Join(release, base))
		if err != nil {
			return err
		}
		parent.Children[base] = node
	}
	return nil
}

// indexes returns depmod's files by name.
func (s *moduleSet) indexes() map[string][]byte {
	files := map[string][]byte{
		"modules.devname":           s.devnames(),
		"modules.builtin.bin":       s.builtInIndex(),
		"modules.builtin.alias.bin": s.builtInAliases(),
		"modules.softdep":           s.commands("# Soft dependencies extracted from modules themselves.\n", "softdep"),
		"modules.weakdep":           s.commands("# Weak dependencies extracted from modules themselves.\n", "weakdep"),
	}
	files["modules.dep"], files["modules.dep.bin"] = s.dependencies()
	files["modules.alias"], files["modules.alias.bin"] = s.aliasIndex()
	files["modules.symbols"], files["modules.symbols.bin"] = s.symbolIndex()
	return files
}

// dependencies returns "PATH: DEP…" for each module; modprobe loads the DEPs from the last to the first.
func (s *moduleSet) dependencies() (text, index []byte) {
	var out bytes.Buffer
	var entries []trieEntry
	for i, m := range s.modules {
		var line strings.Builder
		line.WriteString(m.path + ":")
		for _, dep := range slices.Backward(s.closure(m)) {
			line.WriteString(" " + dep.path)
		}
		fmt.Fprintln(&out, line.String())
		entries = append(entries, trieEntry{m.name, line.String(), uint32(i)})
	}
	return out.Bytes(), writeTrie(entries)
}

// aliasIndex returns "alias PATTERN NAME" for each alias of each module.
func (s *moduleSet) aliasIndex() (text, index []byte) {
	out := bytes.NewBufferString("# Aliases extracted from modules themselves.\n")
	var entries []trieEntry
	for i, m := range s.modules {
		for _, alias := range m.values("alias") {
			fmt.Fprintf(out, "alias %s %s\n", alias, m.name)
			if key, ok := aliasKey(alias); ok {
				entries = append(entries, trieEntry{key, m.name, uint32(i)})
			}
		}
	}
	return out.Bytes(), writeTrie(entries)
}

// aliasKey returns an alias as the index has it: "-" is "_" except between brackets. Brackets that do not match
// make it unusable.
func aliasKey(alias string) (string, bool) {
	var key strings.Builder
	for alias != "" {
		plain, rest, bracket := strings.Cut(alias, "[")
		if strings.Contains(plain, "]") {
			return "", false
		}
		key.WriteString(underscores(plain))
		if !bracket {
			break
		}
		set, after, closed := strings.Cut(rest, "]")
		if !closed {
			return "", false
		}
		key.WriteString("[" + set + "]")
		alias = after
	}
	return key.String(), true
}

// symbolIndex returns "alias symbol:SYMBOL NAME" for each symbol that a module exports. Of two modules with the same
// symbol the later one counts.
func (s *moduleSet) symbolIndex() (text, index []byte) {
	owners := map[string]int{}
	for i, m := range s.modules {
		for _, symbol := range m.symbols {
			owners[symbol] = i
		}
	}
	out := bytes.NewBufferString("# Aliases for symbols, used by symbol_request().\n")
	var entries []trieEntry
	for _, symbol := range slices.Sorted(maps.Keys(owners)) {
		owner := owners[symbol]
		fmt.Fprintf(out, "alias symbol:%s %s\n", symbol, s.modules[owner].name)
		entries = append(entries, trieEntry{"symbol:" + symbol, s.modules[owner].name, uint32(owner)})
	}
	return out.Bytes(), writeTrie(entries)
}

// commands returns "KEY NAME VALUE" for each field of that key, as modprobe.d(5) has it.
func (s *moduleSet) commands(heading, key string) []byte {
	out := bytes.NewBufferString(heading)
	for _, m := range s.modules {
		for _, value := range m.values(key) {
			fmt.Fprintf(out, "%s %s %s\n", key, m.name, value)
		}
	}
	return out.Bytes()
}

// devnames returns "NAME FILE cMAJOR:MINOR" for each module that is loaded when its device is opened. systemd makes
// those devices at boot (kmod static-nodes).
func (s *moduleSet) devnames() []byte {
	out := bytes.NewBufferString("# Device nodes to trigger on-demand module loading.\n")
	device := regexp.MustCompile(`^(char|block)-major-([0-9]+)-([0-9]+)$`)
	for _, m := range s.modules {
		name, number := "", ""
		for _, alias := range m.values("alias") {
			if file, ok := strings.CutPrefix(alias, "devname:"); ok && name == "" {
				name = file
			}
			if match := device.FindStringSubmatch(alias); match != nil && number == "" {
				number = match[1][:1] + match[2] + ":" + match[3]
			}
		}
		if name != "" && number != "" {
			fmt.Fprintf(out, "%s %s %s\n", m.name, name, number)
		}
	}
	return out.Bytes()
}

func (s *moduleSet) builtInIndex() []byte {
	var entries []trieEntry
	for name := range s.builtIn {
		entries = append(entries, trieEntry{key: name})
	}
	return writeTrie(entries)
}

// builtInAliases returns the names that modprobe accepts for what is built in.
func (s *moduleSet) builtInAliases() []byte {
	var entries []trieEntry
	for _, field := range s.builtInInfo {
		name, rest, _ := strings.Cut(field, ".")
		alias, ok := strings.CutPrefix(rest, "alias=")
		if !ok {
			continue
		}
		if key, ok := aliasKey(alias); ok {
			entries = append(entries, trieEntry{key: key, value: underscores(name)})
		}
	}
	return writeTrie(entries)
}

// tree returns the file system whose root stands for lib/modules.
func (c *collection) tree() *rootfs.Tree { return &rootfs.Tree{Root: c.root} }
