package engine

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// capabilityXattr is the attribute that has a file's capabilities.
const capabilityXattr = "security.capability"

// Layout of a file's capabilities (linux/capability.h: struct vfs_cap_data, vfs_ns_cap_data).
const (
	capabilityRevision  = 0xFF000000
	capabilityEffective = 0x000001
	capabilityRevision1 = 0x01000000 // 32 bits
	capabilityRevision2 = 0x02000000 // 64 bits
	capabilityRevision3 = 0x03000000 // and the user of a namespace, who is left out of the text
)

// capabilityNames are the capabilities by their number (linux/capability.h).
func capabilityNames() []string {
	return strings.Fields(`chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable
		net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace
		sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control
		setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore`)
}

// capabilityText returns the text of an attribute, as cap_from_text(3) takes it, or "" for what is none.
func capabilityText(value string) string {
	permitted, inheritable, effective, known := decodeCapabilities([]byte(value))
	if !known {
		return ""
	}
	e := ""
	if effective {
		e = "e"
	}
	var clauses []string
	for _, clause := range []struct {
		set   uint64
		flags string
	}{
		{permitted & inheritable, e + "ip"}, {permitted &^ inheritable, e + "p"}, {inheritable &^ permitted, e + "i"},
	} {
		if names := namesOf(clause.set); names != "" {
			clauses = append(clauses, names+"="+clause.flags)
		}
	}
	if len(clauses) == 0 {
		return "="
	}
	if len(clauses) == 1 { // a set of all of them is left out
		_, flags, _ := strings.Cut(clauses[0], "=")
		if clauses[0] == namesOf(1<<len(capabilityNames())-1)+"="+flags {
			return "=" + flags
		}
	}
	return strings.Join(clauses, " ")
}

// decodeCapabilities takes the sets of an attribute.
func decodeCapabilities(b []byte) (permitted, inheritable uint64, effective, known bool) {
	if len(b) < 4 {
		return 0, 0, false, false
	}
	magic := binary.LittleEndian.Uint32(b)
	words := map[uint32]int{capabilityRevision1: 1, capabilityRevision2: 2, capabilityRevision3: 2}[magic&capabilityRevision]
	if words == 0 || len(b) < 4+8*words {
		return 0, 0, false, false
	}
	for i := range words {
		permitted |= uint64(binary.LittleEndian.Uint32(b[4+8*i:])) << (32 * i)
		inheritable |= uint64(binary.LittleEndian.Uint32(b[8+8*i:])) << (32 * i)
	}
	return permitted, inheritable, magic&capabilityEffective != 0, true
}

// namesOf returns the names of a set with commas between them.
func namesOf(set uint64) string {
	known := capabilityNames()
	var names []string
	for bit := range 64 {
		switch {
		case set>>bit&1 == 0:
		case bit < len(known):
			names = append(names, "cap_"+known[bit])
		default:
			names = append(names, fmt.Sprint(bit))
		}
	}
	return strings.Join(names, ",")
}
