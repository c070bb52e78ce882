package guest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/rootfs"
)

// newTree makes a tree of lines: "/dir/", "/file", "/program*" (executable) and "/link -> target".
func newTree(t *testing.T, lines ...string) *rootfs.Tree {
	t.Helper()
	tree := &rootfs.Tree{Root: directory()}
	for _, line := range lines {
		name, target, isLink := strings.Cut(line, " -> ")
		node := file(0o644, []byte("the image's own"))
		switch {
		case isLink:
			node = symlink(target)
		case strings.HasSuffix(name, "/"):
			node = directory()
		case strings.HasSuffix(name, "*"):
			node.Mode = 0o755
		}
		if err := tree.Add(strings.TrimRight(name, "/*"), node); err != nil {
			t.Fatalf("making the tree: %v", err)
		}
	}
	return tree
}

// describe returns an asset as newTree's lines have it, with the mode.
func describe(a Asset) string {
	s := a.Path
	switch a.Node.Kind {
	case rootfs.Directory:
		s += "/"
	case rootfs.Symlink:
		s += " -> " + a.Node.Target
	}
	return fmt.Sprintf("%s %o", s, a.Node.Mode)
}

func TestChooseInit(t *testing.T) {
	merged := []string{"/usr/lib/systemd/systemd*", "/lib -> usr/lib", "/usr/sbin/init -> ../lib/systemd/systemd", "/sbin -> usr/sbin"}
	tests := []struct {
		name       string
		tree       []string
		entrypoint []string
		cmd        []string
		want       Init
	}{
		{"scratch", nil, nil, []string{"/hello"}, Guest},
		{"busybox", []string{"/bin/busybox*", "/sbin/init -> /bin/busybox"}, nil, nil, Guest},
		{"sysvinit", []string{"/sbin/init*"}, nil, nil, Guest},
		{"merged /usr", merged, nil, []string{"bash"}, Systemd},
		{"split /usr", []string{"/lib/systemd/systemd*", "/sbin/init -> /lib/systemd/systemd"}, nil, nil, Systemd},
		{"libraries only", []string{"/lib/systemd/libsystemd-core.so", "/bin/sh*"}, nil, []string{"sh"}, Guest},
		{"systemd without a link", []string{"/lib/systemd/systemd*"}, nil, []string{"sh"}, Guest},
		{"started by its own name", []string{"/lib/systemd/systemd*"}, []string{"/lib/systemd/systemd"}, nil, Systemd},
		{"started as the command", []string{"/usr/lib/systemd/systemd*"}, nil, []string{"/usr/lib/systemd/systemd", "--system"}, Systemd},
		{"started, but /sbin/init is another", []string{"/lib/systemd/systemd*", "/sbin/init*"}, []string{"/lib/systemd/systemd"}, nil, Guest},
		{"named by an argument only", []string{"/lib/systemd/systemd*"}, []string{"/tini"}, []string{"/lib/systemd/systemd"}, Guest},
		{"not executable", []string{"/lib/systemd/systemd", "/sbin/init -> /lib/systemd/systemd"}, nil, nil, Guest},
		{"dangling link", []string{"/sbin/init -> /lib/systemd/systemd"}, nil, nil, Guest},
		{"a directory", []string{"/lib/systemd/systemd/", "/sbin/init -> /lib/systemd/systemd"}, nil, nil, Guest},
		{"a loop", []string{"/sbin/init -> init"}, nil, nil, Guest},
		{"/sbin is a file", []string{"/sbin", "/lib/systemd/systemd*"}, []string{"/lib/systemd/systemd"}, nil, Guest},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			tree := newTree(t, test.tree...)
			if got := ChooseInit(tree, test.entrypoint, test.cmd); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestInitPath(t *testing.T) {
	if got := InitPath(Systemd); got != "/sbin/init" {
		t.Errorf("systemd is started by %q, want /sbin/init", got)
	}
	if got := InitPath(Guest); got != "/usr/lib/banger/banger-guest" {
		t.Errorf("the agent is started by %q, want /usr/lib/banger/banger-guest", got)
	}
}

func TestAssets(t *testing.T) {
	agent := []string{"/usr/lib/banger/ 755", "/usr/lib/banger/banger-guest 755", "/usr/lib/banger/image.json 644"}
	link := "/sbin/init -> /usr/lib/banger/banger-guest 777"
	unit := []string{"/usr/lib/systemd/system/banger-guest.service 644"}
	want := "/etc/systemd/system/multi-user.target.wants/banger-guest.service -> /usr/lib/systemd/system/banger-guest.service 777"
	tests := []struct {
		name   string
		tree   []string
		config string
		want   []string
		init   Init
	}{
		{"scratch", nil, "", concat("/usr/ 755", "/usr/lib/ 755", agent, "/sbin/ 755", link), Guest},
		{"busybox", []string{"/sbin/init*", "/usr/lib/"}, "", concat(agent), Guest},
		{"dangling /sbin/init stays", []string{"/sbin/init -> gone", "/usr/lib/"}, "", concat(agent), Guest},
		{"/sbin is a link", []string{"/usr/sbin/", "/usr/lib/", "/sbin -> usr/sbin"}, "",
			concat(agent, "/usr/sbin/init -> /usr/lib/banger/banger-guest 777"), Guest},
		{"/sbin is a file", []string{"/sbin", "/usr/lib/"}, "", concat(agent), Guest},
		{"/usr/lib is a link", []string{"/usr/lib -> lib64", "/usr/lib64/", "/sbin/init*"}, "",
			[]string{"/usr/lib64/banger/ 755", "/usr/lib64/banger/banger-guest 755", "/usr/lib64/banger/image.json 644"}, Guest},
		{"/usr is a link to nowhere", []string{"/usr -> /data/usr", "/sbin/init*"}, "",
			[]string{"/data/ 755", "/data/usr/ 755", "/data/usr/lib/ 755", "/data/usr/lib/banger/ 755", "/data/usr/lib/banger/banger-guest 755", "/data/usr/lib/banger/image.json 644"}, Guest},
		{"systemd", []string{"/usr/lib/systemd/systemd*", "/usr/lib/systemd/system/", "/sbin/init -> /usr/lib/systemd/systemd", "/etc/systemd/system/multi-user.target.wants/"}, "",
			concat(agent, unit, want), Systemd},
		{"systemd with split /usr", []string{"/lib/systemd/systemd*", "/lib/systemd/system/", "/usr/lib/", "/sbin/init -> /lib/systemd/systemd"}, "",
			concat(agent, "/usr/lib/systemd/ 755", "/usr/lib/systemd/system/ 755", unit, "/etc/ 755", "/etc/systemd/ 755", "/etc/systemd/system/ 755", "/etc/systemd/system/multi-user.target.wants/ 755", want), Systemd},
		{"systemd by its name", []string{"/usr/lib/systemd/systemd*", "/usr/lib/systemd/system/", "/sbin/", "/etc/systemd/system/multi-user.target.wants/"}, `{"config":{"Entrypoint":["/usr/lib/systemd/systemd"]}}`,
			concat(agent, unit, want, "/sbin/init -> /usr/lib/systemd/systemd 777"), Systemd},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			tree := newTree(t, test.tree...)
			assets, init, err := Assets(tree, config1(test.config), "sha256:1", "v1", []byte("agent"))
			if err != nil || init != test.init {
				t.Fatalf("init %q, error %v, want %q and none", init, err, test.init)
			}
			var got []string
			for _, a := range assets {
				got = append(got, describe(a))
				if a.Node.UID != 0 || a.Node.GID != 0 || !a.Node.MTime.Equal(time.Unix(0, 0)) {
					t.Errorf("%s belongs to %d:%d at %v, want root and the epoch", a.Path, a.Node.UID, a.Node.GID, a.Node.MTime)
				}
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got assets\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
			checkRenewal(t, tree, assets)
		})
	}
}

// checkRenewal adds the assets to the tree and then, as for an image that banger made, those of a newer agent.
func checkRenewal(t *testing.T, tree *rootfs.Tree, assets []Asset) {
	t.Helper()
	if err := Add(tree, assets); err != nil {
		t.Fatalf("adding assets to their own tree: %v", err)
	}
	before := tree.Usage()
	newer, _, err := Assets(tree, config1(""), "sha256:2", "v2", []byte("newer agent"))
	if err == nil {
		err = Add(tree, newer)
	}
	if err != nil {
		t.Fatalf("renewing banger's own files: %v", err)
	}
	agent, err := tree.Lookup(agentPath)
	if err != nil || string(content(agent)) != "newer agent" || agent.Links != 1 {
		t.Errorf("the renewed agent is %+v (%v), want the newer one with one name", agent, err)
	}
	if after := tree.Usage(); after.Names != before.Names || after.Inodes != before.Inodes {
		t.Errorf("renewing made %+v of %+v, want as many names and inodes", after, before)
	}
}

// TestAddRenewsOneName: a file that banger renews may have other names, and its directory has a time of its own.
func TestAddRenewsOneName(t *testing.T) {
	tree := newTree(t, "/usr/lib/banger/banger-guest*")
	old, err := tree.Lookup(agentPath)
	if err == nil {
		err = tree.Add("/copy", old)
	}
	if err != nil {
		t.Fatal(err)
	}
	dir, _ := tree.Lookup(dirPath)
	dir.Mode, dir.MTime = 0o700, time.Unix(77, 7)
	assets := []Asset{{Path: dirPath, Node: directory()}, {Path: agentPath, Node: file(0o755, []byte("new"))}}
	if err := Add(tree, assets); err != nil {
		t.Fatal(err)
	}
	renewed, _ := tree.Lookup(agentPath)
	if renewed != assets[1].Node || renewed.Links != 1 || old.Links != 1 {
		t.Errorf("the new file has %d names and the old one %d, want one each", renewed.Links, old.Links)
	}
	if dir.Mode != 0o700 || !dir.MTime.Equal(time.Unix(77, 7)) {
		t.Errorf("the directory is %o of %v, want it as it was", dir.Mode, dir.MTime)
	}
}

func TestAddConflict(t *testing.T) {
	for _, a := range []Asset{
		{Path: "/dir", Node: file(0o644, nil)},
		{Path: "/file", Node: directory()},
		{Path: "/link", Node: directory()},
	} {
		tree := newTree(t, "/dir/inside", "/file", "/link -> nowhere")
		before := tree.Usage()
		if err := Add(tree, []Asset{a}); fault.KindOf(err) != fault.Conflict || !strings.Contains(err.Error(), a.Path) {
			t.Errorf("%q in place of another kind: got %v, want a conflict that names it", a.Path, err)
		}
		if after := tree.Usage(); after != before {
			t.Errorf("%q: a refused asset made %+v of %+v", a.Path, after, before)
		}
	}
}

func config1(text string) []byte {
	if text == "" {
		text = `{"config":{}}`
	}
	return []byte(text)
}

func concat(parts ...any) (all []string) {
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			all = append(all, p)
		case []string:
			all = append(all, p...)
		}
	}
	return all
}

func TestAssetsConflict(t *testing.T) {
	systemd := []string{"/lib/systemd/systemd*", "/sbin/init -> /lib/systemd/systemd"}
	tests := []struct {
		name string
		tree []string
		path string
	}{
		{"another banger-guest", []string{"/usr/lib/banger/banger-guest*"}, "/usr/lib/banger/banger-guest"},
		{"another image.json", []string{"/usr/lib/banger/image.json"}, "/usr/lib/banger/image.json"},
		{"a link in its place", []string{"/usr/lib/banger/banger-guest -> /bin/sh", "/bin/sh*"}, "/usr/lib/banger/banger-guest"},
		{"a file as directory", []string{"/usr/lib/banger"}, "/usr/lib/banger"},
		{"a parent that is a file", []string{"/usr"}, "/usr"},
		{"a loop", []string{"/usr -> usr"}, "/usr/lib/banger/banger-guest"},
		{"another unit", append(systemd, "/usr/lib/systemd/system/banger-guest.service"), "/usr/lib/systemd/system/banger-guest.service"},
		{"a masked unit", append(systemd, "/etc/systemd/system/multi-user.target.wants/banger-guest.service -> /dev/null"), "/etc/systemd/system/multi-user.target.wants/banger-guest.service"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			assets, _, err := Assets(newTree(t, test.tree...), config1(""), "sha256:1", "v1", nil)
			if fault.KindOf(err) != fault.Conflict || len(fault.HintOf(err)) == 0 {
				t.Fatalf("got %d assets and the error %v, want a conflict with a hint", len(assets), err)
			}
			if !strings.Contains(err.Error(), fmt.Sprintf("%q", test.path)) {
				t.Errorf("the error %q does not name %q", err, test.path)
			}
		})
	}
}

func TestImageFile(t *testing.T) {
	raw := `{"architecture":"amd64","config":{"User":"web:www","Env":["A=1"],"Entrypoint":["/e"],"Cmd":["c"],"WorkingDir":"/w","StopSignal":"SIGQUIT","Labels":{"k":"v"},"Volumes":{"/v":{}}}}`
	assets, _, err := Assets(newTree(t), []byte(raw), "sha256:abc", "0123456789ab", []byte("agent"))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range assets {
		switch a.Path {
		case "/usr/lib/banger/banger-guest":
			if got := content(a.Node); !bytes.Equal(got, []byte("agent")) {
				t.Errorf("the agent's file has %q, want %q", got, "agent")
			}
		case "/usr/lib/banger/image.json":
			checkImageFile(t, content(a.Node))
		}
	}
}

func checkImageFile(t *testing.T, text []byte) {
	t.Helper()
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatalf("reading image.json: %v", err)
	}
	want := map[string]any{
		"schema": 1.0, "digest": "sha256:abc", "agent": "0123456789ab", "init": "guest",
		"config": map[string]any{"User": "web:www", "Env": []any{"A=1"}, "Entrypoint": []any{"/e"}, "Cmd": []any{"c"},
			"WorkingDir": "/w", "StopSignal": "SIGQUIT", "Labels": map[string]any{"k": "v"}},
	}
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("image.json has %s, want %s", g, w)
	}
}

func TestAssetsBadConfig(t *testing.T) {
	_, _, err := Assets(newTree(t), []byte("no JSON"), "sha256:abc", "v", nil)
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) || fault.KindOf(err) != fault.Unsupported {
		t.Errorf("error %v of kind %d, want a syntax error of kind %d", err, fault.KindOf(err), fault.Unsupported)
	}
}
