// Package guest decides what banger adds to an image so that it can be booted: the agent, a description of the image
// for it, and what starts it. It only adds: a file of the image is never replaced, only banger's own are renewed.
//
// The programs that run in the guest are in the packages below this one.
package guest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"time"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/rootfs"
)

// Init says what runs as process 1 of a guest.
type Init string

const (
	// Systemd is the image's own systemd. The agent is one of its services.
	Systemd Init = "systemd"
	// Guest is banger's agent.
	Guest Init = "guest"
)

const (
	dirPath   = "/usr/lib/banger"
	agentPath = dirPath + "/banger-guest"
	imagePath = dirPath + "/image.json"
	initPath  = "/sbin/init"
	// unitPath is a directory that every systemd looks in, whether /lib is a link to /usr/lib or not (systemd.unit(5)).
	unitPath = "/usr/lib/systemd/system/banger-guest.service"
	// wantPath is what `systemctl enable` makes.
	wantPath = "/etc/systemd/system/multi-user.target.wants/banger-guest.service"
)

// imageSchema is the version of image.json.
const imageSchema = 1

// unit starts the agent at once, without making anything wait for it, and keeps it in emergency mode, where it is needed
// most: the initramfs has mounted the root already. Commands of the host run in the unit's control group: they may be
// many, may make groups of their own (docker), are no reason to fail the unit when the kernel kills one for memory, and
// do not hold a shutdown up.
const unit = `[Unit]
Description=Agent of the banger VM
DefaultDependencies=no
IgnoreOnIsolate=yes
Conflicts=shutdown.target
Before=shutdown.target
StartLimitIntervalSec=0

[Service]
ExecStart=` + agentPath + ` agent
Restart=always
RestartSec=200ms
TimeoutStopSec=2s
SendSIGHUP=yes
IgnoreSIGPIPE=no
OOMPolicy=continue
TasksMax=infinity
LimitNPROC=infinity
Delegate=yes

[Install]
WantedBy=multi-user.target
`

// ChooseInit returns what shall run as process 1: systemd if /sbin/init of the tree is one, or if the image's command
// is one and /sbin/init can be made a link to it. An image that has only a few of systemd's tools gets the agent.
func ChooseInit(t *rootfs.Tree, entrypoint, cmd []string) Init {
	if isSystemd(t, initPath) || initIsFree(t) && isSystemd(t, first(entrypoint, cmd)) {
		return Systemd
	}
	return Guest
}

// initIsFree reports whether /sbin/init can be made: nothing is there, not even a dangling link, and /sbin leads to a
// directory or to nothing.
func initIsFree(t *rootfs.Tree) bool {
	dir, err := t.Lookup(path.Dir(initPath))
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	return err == nil && dir.Kind == rootfs.Directory && dir.Children[path.Base(initPath)] == nil
}

// first returns the program that an entrypoint and its arguments start, or "".
func first(entrypoint, cmd []string) string {
	if argv := slices.Concat(entrypoint, cmd); len(argv) > 0 {
		return argv[0]
	}
	return ""
}

// isSystemd reports whether file leads to an executable called systemd.
func isSystemd(t *rootfs.Tree, file string) bool {
	if !path.IsAbs(file) {
		return false
	}
	node, err := t.Lookup(file)
	if err != nil || node.Kind != rootfs.Regular || node.Mode&0o111 == 0 {
		return false
	}
	resolved, err := t.Resolve(file)
	return err == nil && path.Base(resolved) == "systemd"
}

// InitPath returns the program that the kernel's command line names as process 1.
func InitPath(i Init) string {
	if i == Systemd {
		return initPath
	}
	return agentPath
}

// config is the part of the OCI image config that matters in the guest (image-spec, config.md).
type config struct {
	Entrypoint []string          `json:",omitempty"`
	Cmd        []string          `json:",omitempty"`
	Env        []string          `json:",omitempty"`
	User       string            `json:",omitempty"`
	WorkingDir string            `json:",omitempty"`
	StopSignal string            `json:",omitempty"`
	Labels     map[string]string `json:",omitempty"`
}

// imageFile is image.json.
type imageFile struct {
	Schema int    `json:"schema"`
	Digest string `json:"digest"`
	Agent  string `json:"agent"`
	Init   Init   `json:"init"`
	Config config `json:"config"`
}

// Assets returns what banger adds to the tree, each directory before what is in it, and the init that was chosen. It
// does not change the tree. rawConfig is the image's config as the registry has it; digest names the image; binary is
// the agent of the given version. The times of all assets are the Unix epoch, so that equal images give equal disks.
//
// A file of the image that stands in the way is a fault.Conflict, except that banger's own files are renewed, and that
// an image keeps its /sbin/init.
func Assets(t *rootfs.Tree, rawConfig []byte, digest, version string, binary []byte) ([]Asset, Init, error) {
	var image struct{ Config config }
	if err := json.Unmarshal(rawConfig, &image); err != nil {
		err = fmt.Errorf("reading the config of the image %q: %w", digest, err)
		return nil, "", fault.New(fault.Unsupported, err, "")
	}
	init := ChooseInit(t, image.Config.Entrypoint, image.Config.Cmd)
	description, err := json.MarshalIndent(imageFile{imageSchema, digest, version, init, image.Config}, "", "  ")
	if err != nil {
		return nil, "", fmt.Errorf("describing the image %q: %w", digest, err)
	}
	p := &placer{tree: t, made: map[string]bool{}}
	p.place(agentPath, file(0o755, binary), p.ours)
	p.place(imagePath, file(0o644, append(description, '\n')), p.ours)
	if init == Systemd {
		p.place(unitPath, file(0o644, []byte(unit)), isOurUnit)
		p.place(wantPath, symlink(unitPath), isLinkTo(unitPath))
	}
	p.placeInit(init, first(image.Config.Entrypoint, image.Config.Cmd))
	return p.assets, init, p.err
}

func file(mode uint16, content []byte) *rootfs.Node {
	n := &rootfs.Node{Kind: rootfs.Regular, Mode: mode, MTime: epoch(), Size: int64(len(content)), Source: bytes.NewReader(content)}
	if len(content) > 0 {
		n.Extents = []layer.Extent{{Length: int64(len(content))}}
	}
	return n
}

func symlink(target string) *rootfs.Node {
	return &rootfs.Node{Kind: rootfs.Symlink, Mode: 0o777, MTime: epoch(), Target: target}
}

func directory() *rootfs.Node {
	return &rootfs.Node{Kind: rootfs.Directory, Mode: 0o755, MTime: epoch()}
}

func epoch() time.Time { return time.Unix(0, 0).UTC() }

// placer collects assets. Its first error sticks.
type placer struct {
	tree   *rootfs.Tree
	made   map[string]bool // directories among the assets
	assets []Asset
	err    error
}

// place adds node at name, whose directory is resolved in the tree and made where it is missing. A node that is there
// already is renewed if mine says that it is banger's.
func (p *placer) place(name string, node *rootfs.Node, mine func(*rootfs.Node) bool) {
	if p.err != nil {
		return
	}
	dir, err := p.tree.Resolve(path.Dir(name))
	if err != nil {
		p.err = conflict(name, err)
		return
	}
	if there := p.child(dir, path.Base(name)); there != nil && !mine(there) {
		p.err = conflict(name, fs.ErrExist)
		return
	}
	p.makeDir(dir)
	p.add(path.Join(dir, path.Base(name)), node)
}

func conflict(name string, err error) error {
	err = fmt.Errorf("adding %q to the image: %w", name, err)
	return fault.New(fault.Conflict, err, "pull the image with --no-guest to keep it as it is; it cannot be booted by banger then")
}

// child returns what stands under name in dir, a symlink itself and not its target; nil if nothing does.
func (p *placer) child(dir, name string) *rootfs.Node {
	node, err := p.tree.Lookup(dir)
	if err != nil || node.Kind != rootfs.Directory {
		return nil
	}
	return node.Children[name]
}

// makeDir adds dir, which has no symlinks, and its parents where they are missing.
func (p *placer) makeDir(dir string) {
	if p.err != nil || p.made[dir] {
		return
	}
	node, err := p.tree.Lookup(dir)
	switch {
	case err == nil && node.Kind == rootfs.Directory:
		return
	case err == nil:
		p.err = conflict(dir, errors.New("it is no directory"))
	case !errors.Is(err, fs.ErrNotExist):
		p.err = conflict(dir, err)
	default:
		p.makeDir(path.Dir(dir))
		p.made[dir] = true
		p.add(dir, directory())
	}
}

func (p *placer) add(name string, node *rootfs.Node) {
	if p.err == nil {
		p.assets = append(p.assets, Asset{Path: name, Node: node})
	}
}

// placeInit makes /sbin/init where the image has none, so that the disk also boots without banger's initramfs. A
// systemd that the image starts by another name becomes process 1 by this link.
func (p *placer) placeInit(init Init, program string) {
	if !initIsFree(p.tree) {
		return
	}
	target := agentPath
	if init == Systemd {
		target = program
	}
	p.place(initPath, symlink(target), func(*rootfs.Node) bool { return false })
}

// ours reports whether a file in /usr/lib/banger is banger's: an image.json that can be understood is beside it.
func (p *placer) ours(n *rootfs.Node) bool {
	description, err := p.tree.Lookup(imagePath)
	if err != nil || n.Kind != rootfs.Regular {
		return false
	}
	var image imageFile
	return json.Unmarshal(content(description), &image) == nil && image.Schema > 0 && image.Agent != ""
}

func isOurUnit(n *rootfs.Node) bool {
	return bytes.Contains(content(n), []byte("\nExecStart="+agentPath+" "))
}

func isLinkTo(target string) func(*rootfs.Node) bool {
	return func(n *rootfs.Node) bool { return n.Kind == rootfs.Symlink && n.Target == target }
}

// contentLimit is the longest file of banger's own that is looked into, in bytes.
const contentLimit = 1 << 20

// content returns the bytes of a small regular file, or nothing.
func content(n *rootfs.Node) []byte {
	if n.Kind != rootfs.Regular || n.Size > contentLimit {
		return nil
	}
	b := make([]byte, n.Size)
	for _, e := range n.Extents {
		section := io.NewSectionReader(n.Source, e.Offset, e.Length)
		if _, err := io.ReadFull(section, b[e.Logical:e.Logical+e.Length]); err != nil {
			return nil
		}
	}
	return b
}

// DescriptionPath returns where the description of the image is, which every image has that banger has added to.
func DescriptionPath() string { return imagePath }

// OwnPaths returns where banger's own files are in an image: what Assets may add to one, but for directories on the way
// to them. Where the image's directories are symlinks, they are where those lead. The last one is banger's only if
// IsOwnInit says so.
func OwnPaths() []string {
	return []string{dirPath, agentPath, imagePath, unitPath, wantPath, initPath}
}

// IsOwnInit says whether a symlink at one of OwnPaths can be banger's: at /sbin/init only the one to the agent can.
func IsOwnInit(path, target string) bool { return path != initPath || target == agentPath }
