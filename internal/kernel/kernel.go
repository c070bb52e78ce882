// Package kernel keeps the kernels that virtual machines boot: Debian's and Ubuntu's packages, the host's own, or
// files. Images have no kernel; each named kernel of the Store is
//
//	vmlinuz       the kernel, as its distribution built it
//	vmlinux       the same uncompressed, for emulated machines; absent where it cannot be started that way
//	modules.cpio  an initramfs with the drivers that are needed before the root file system is mounted
//	modules.ext4  all modules with depmod's indexes, a disk whose root is what the guest shows at /lib/modules
//	kernel.json   what is known about it: a Kernel
//
// Import reads a Source in one pass. Everything below lib/modules is spooled to one file, decompressed, and becomes a
// rootfs.Tree whose nodes point into it. The modules' own ELF sections say what depmod would: the indexes are always
// made here, since a Debian package has none and those of others name compressed files. Nothing of the host is run.
//
// Only x86-64 kernels are supported. Symbolic links below lib/modules ("build", "source") are left out.
package kernel

import (
	"path/filepath"
	"time"
)

// schema is the version of kernel.json and of what stands beside it.
const schema = 1

// The files of a kernel's directory.
const (
	imageFile     = "vmlinuz"
	plainFile     = "vmlinux"
	initramfsFile = "modules.cpio"
	modulesFile   = "modules.ext4"
	metadataFile  = "kernel.json"
)

// Kernel is one kernel of a Store.
type Kernel struct {
	Schema  int    `json:"schema"`
	Name    string `json:"name"`    // in the store
	Version string `json:"version"` // its release, as uname -r prints it: "6.1.0-56-cloud-amd64"
	Source  string `json:"source"`  // where it came from, for people
	// VmlinuzSHA256 and ModulesSHA256 are in hexadecimal. The latter is over the paths, modes and contents of what the
	// source has below lib/modules, decompressed and without depmod's files.
	VmlinuzSHA256 string    `json:"vmlinuzSHA256"`
	ModulesSHA256 string    `json:"modulesSHA256"`
	Plain         bool      `json:"plain"`   // there is an uncompressed vmlinux beside it
	Modules       int       `json:"modules"` // how many there are; 0 is a kernel with all drivers built in
	BuiltIn       []string  `json:"builtIn"` // drivers that banger needs or likes, and that are no module
	Missing       []string  `json:"missing"` // drivers that banger likes and this kernel lacks; see Lacks
	Created       time.Time `json:"created"`

	dir string
}

// Vmlinuz returns the path of the kernel.
func (k *Kernel) Vmlinuz() string { return filepath.Join(k.dir, imageFile) }

// Vmlinux returns the path of the uncompressed kernel, an ELF file with a PVH entry, or "" if there is none.
func (k *Kernel) Vmlinux() string {
	if !k.Plain {
		return ""
	}
	return filepath.Join(k.dir, plainFile)
}

// Initramfs returns the path of the initramfs that has the modules and no init: see InitramfsWithInit.
func (k *Kernel) Initramfs() string { return filepath.Join(k.dir, initramfsFile) }

// ModulesImage returns the path of the file system whose root is shown at /lib/modules, or "" if there are no modules.
func (k *Kernel) ModulesImage() string {
	if k.Modules == 0 {
		return ""
	}
	return filepath.Join(k.dir, modulesFile)
}
