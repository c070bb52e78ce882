package engine

import (
	"encoding/hex"
	"testing"
)

// TestCapabilityText: the attributes are those that setcap of libcap 2.66 has written for the text, or for another text
// of the same meaning.
func TestCapabilityText(t *testing.T) {
	for attribute, want := range map[string]string{
		"0100000200200000000000000000000000000000": "cap_net_raw=ep",
		"0000000200200000000000000000000000000000": "cap_net_raw=p",
		"0000000200000000002000000000000000000000": "cap_net_raw=i",
		"0100000200000000002000000000000000000000": "cap_net_raw=ei",
		"0100000200200000002000000000000000000000": "cap_net_raw=eip",
		"0100000200200000010000000000000000000000": "cap_net_raw=ep cap_chown=ei",
		"0000000221200000290000000000000000000000": "cap_chown,cap_kill=ip cap_net_raw=p cap_fowner=i",
		"01000002ffffffff00000000ff01000000000000": "=ep",
		"0000000200000000000000000001000000000000": "cap_checkpoint_restore=p",
		"0000000200000000000000000000000000000000": "=",
		// Of a namespace, whose root is the user 1000, and of the first revision, which setcap does not write.
		"0100000300200000000000000000000000000000e8030000": "cap_net_raw=ep",
		"010000010020000000000000":                         "cap_net_raw=ep",
		// Numbers without a name, and what is no attribute of capabilities.
		"0000000200000000000000000000008000000000": "63=p",
		"01000002002000000000000000000000000000":   "",
		"0100000900200000000000000000000000000000": "",
		"": "",
	} {
		value, err := hex.DecodeString(attribute)
		if err != nil {
			t.Fatal(err)
		}
		if got := capabilityText(string(value)); got != want {
			t.Errorf("the capabilities %s are %q, want %q", attribute, got, want)
		}
	}
}
