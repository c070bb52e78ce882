package exec

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// identity is who a command runs as.
type identity struct {
	uid, gid uint32
	groups   []uint32 // supplementary
	name     string   // "" without an account
	home     string
	shell    string // "" if the account does not say
}

// account is a line of passwd(5): name:password:uid:gid:comment:home:shell.
type account struct {
	name     string
	uid, gid uint32
	home     string
	shell    string
}

// group is a line of group(5): name:password:gid:member,member.
type group struct {
	name    string
	gid     uint32
	members []string
}

// lookUpUser finds the user that spec names, as docker does: NAME, UID, NAME:GROUP or UID:GID, "" is root. A number
// is always an id, even if somebody is called so, and need not be in the files; a name must. Without a group in spec, the user's own groups apply. etc has passwd and group, which
// may be absent.
func lookUpUser(etc fs.FS, spec string) (identity, error) {
	userName, groupName, withGroup := strings.Cut(spec, ":")
	if userName == "" {
		userName = "0"
	}
	accounts, err := readLines(etc, "passwd", 7, parseAccount)
	if err != nil {
		return identity{}, err
	}
	groups, err := readLines(etc, "group", 4, parseGroup)
	if err != nil {
		return identity{}, err
	}
	a, err := findAccount(accounts, userName)
	if err != nil {
		return identity{}, err
	}
	who := identity{uid: a.uid, gid: a.gid, name: a.name, home: a.home, shell: a.shell}
	if withGroup && groupName != "" {
		who.gid, err = findGroup(groups, groupName)
		return who, err
	}
	for _, g := range groups {
		if a.name != "" && slices.Contains(g.members, a.name) {
			who.groups = append(who.groups, g.gid)
		}
	}
	return who, nil
}

// findAccount finds the account of an id or a name. An id without one has the group 0.
func findAccount(accounts []account, user string) (account, error) {
	uid, err := parseID(user)
	numeric := err == nil
	for _, a := range accounts {
		if numeric && a.uid == uid || !numeric && a.name == user {
			return a, nil
		}
	}
	switch {
	case !numeric:
		return account{}, fmt.Errorf("finding user %q: the image's /etc/passwd has no such name", user)
	case uid == 0:
		return account{name: "root", home: "/"}, nil
	}
	return account{uid: uid, home: "/"}, nil
}

func findGroup(groups []group, name string) (uint32, error) {
	if gid, err := parseID(name); err == nil {
		return gid, nil
	}
	for _, g := range groups {
		if g.name == name {
			return g.gid, nil
		}
	}
	return 0, fmt.Errorf("finding group %q: the image's /etc/group has no such name", name)
}

// readLines parses a file of colon-separated lines with the given number of fields. Lines that are malformed or
// comments are skipped, as the C library does. A file that is absent has no lines.
func readLines[T any](etc fs.FS, name string, fields int, parse func([]string) (T, error)) ([]T, error) {
	file, err := etc.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the image's %q: %w", "/etc/"+name, err)
	}
	defer func() { _ = file.Close() }()
	var lines []T
	scan := bufio.NewScanner(file)
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		parts := strings.SplitN(strings.TrimSpace(scan.Text()), ":", fields)
		if len(parts) < fields-1 || strings.HasPrefix(parts[0], "#") {
			continue
		}
		for len(parts) < fields {
			parts = append(parts, "")
		}
		if line, err := parse(parts); err == nil {
			lines = append(lines, line)
		}
	}
	if err := scan.Err(); err != nil {
		return nil, fmt.Errorf("reading the image's %q: %w", "/etc/"+name, err)
	}
	return lines, nil
}

func parseAccount(f []string) (account, error) {
	uid, uidErr := parseID(f[2])
	gid, gidErr := parseID(f[3])
	return account{name: f[0], uid: uid, gid: gid, home: f[5], shell: f[6]}, errors.Join(uidErr, gidErr)
}

func parseGroup(f []string) (group, error) {
	gid, err := parseID(f[2])
	return group{name: f[0], gid: gid, members: strings.Split(f[3], ",")}, err
}

// parseID parses a user or group id. The largest number means "no change" to the kernel and is no id.
func parseID(s string) (uint32, error) {
	id, err := strconv.ParseUint(s, 10, 32)
	if err == nil && id == 1<<32-1 {
		err = strconv.ErrRange
	}
	return uint32(id), err
}
