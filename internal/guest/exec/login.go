package exec

import (
	"os"
	"path/filepath"
	"strconv"

	"github.com/banger-vm/banger/internal/guest/frame"
)

// usualShells returns where a shell is looked for when the user's own is not there. A busybox is its shell when it is
// started by the name of sh.
func usualShells() []string {
	return []string{"/bin/bash", "/bin/sh", "/bin/ash", "/usr/bin/bash", "/usr/bin/sh", "/bin/busybox", "/usr/bin/busybox"}
}

// busybox is the name of a program that is many, by the name that it is started with.
const busybox = "busybox"

// findShell returns the path of the user's login shell, of another one if the image does not have it, or "" if it has
// none. A user without an entry, or with an empty one, has /bin/sh (passwd(5)). One that refuses, such as nologin(8),
// is a shell like others.
func (g *Guest) findShell(who identity) string {
	others := g.shells
	if others == nil {
		others = usualShells()
	}
	for _, file := range append([]string{who.shell}, others...) {
		if filepath.IsAbs(file) && executable(file) == nil {
			return file
		}
	}
	return ""
}

// shellName returns the name that a shell is started with.
func shellName(file string) string {
	if name := filepath.Base(file); name != busybox {
		return name
	}
	return "sh"
}

// login plans what a login of who runs: their shell, a command line for it, or a program and its arguments.
func (g *Guest) login(cmd Command, who identity) (plan, *frame.Refusal) {
	file := g.findShell(who)
	dir, refused := loginDirectory(cmd.Dir, who)
	if refused != nil {
		return plan{}, refused
	}
	own := append(loginEnvironment(who, file), cmd.Env...)
	p := plan{who: who, dir: dir, env: environment(g.Config.Env, own, homeOf(who), cmd.TTY != nil)}
	switch {
	case len(cmd.Argv) > 1:
		return p.of(cmd.Argv)
	case len(cmd.Argv) == 1 && file != "":
		p.file, p.argv = file, []string{shellName(file), "-c", cmd.Argv[0]}
		return p, nil
	case len(cmd.Argv) == 1:
		argv, refused := splitWords(cmd.Argv[0])
		if refused != nil {
			return plan{}, refused
		}
		return p.of(argv)
	case file != "":
		p.file, p.argv = file, []string{"-" + shellName(file)}
		return p, nil
	}
	return plan{}, frame.Refuse(frame.NotFound,
		"starting a shell: the image has none; its programs can be run by `banger vm exec`")
}

// loginDirectory returns the directory of a login: the one that was asked for, which is made, or the user's home, which
// is not.
func loginDirectory(asked string, who identity) (string, *frame.Refusal) {
	if asked != "" {
		return directory(asked)
	}
	home := homeOf(who)
	if info, err := os.Stat(home); err == nil && info.IsDir() && filepath.IsAbs(home) {
		return home, nil
	}
	return "/", nil
}

// loginEnvironment returns what login(1) sets, over the image's environment.
func loginEnvironment(who identity, shell string) []string {
	name := who.name
	if name == "" {
		name = strconv.FormatUint(uint64(who.uid), 10)
	}
	env := []string{"HOME=" + homeOf(who), "USER=" + name, "LOGNAME=" + name}
	if shell != "" && filepath.Base(shell) != busybox { // a program that runs $SHELL would get all of busybox
		env = append(env, "SHELL="+shell)
	}
	return env
}
