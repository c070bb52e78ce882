package exec

import "unicode/utf8"

// wireCommand are the arguments of exec. Texts of JSON are UTF-8; what a command has otherwise is there twice.
type wireCommand struct {
	Command
	Bytes commandBytes `json:"bytes,omitzero"`
}

// commandBytes are the texts of a Command that are no UTF-8, and take the place of those that JSON has made of them.
type commandBytes struct {
	Argv map[int][]byte `json:"argv,omitempty"` // by index
	Env  map[int][]byte `json:"env,omitempty"`  // by index
	Dir  []byte         `json:"dir,omitempty"`
}

func toWire(cmd Command) wireCommand {
	w := wireCommand{cmd, commandBytes{Argv: noTexts(cmd.Argv), Env: noTexts(cmd.Env)}}
	if !utf8.ValidString(cmd.Dir) {
		w.Bytes.Dir = []byte(cmd.Dir)
	}
	return w
}

// noTexts returns those of all that are no UTF-8.
func noTexts(all []string) map[int][]byte {
	found := map[int][]byte{}
	for i, s := range all {
		if !utf8.ValidString(s) {
			found[i] = []byte(s)
		}
	}
	if len(found) == 0 {
		return nil
	}
	return found
}

func (w wireCommand) command() Command {
	putBack(w.Argv, w.Bytes.Argv)
	putBack(w.Env, w.Bytes.Env)
	w.Dir = first(string(w.Bytes.Dir), w.Dir)
	return w.Command
}

func putBack(all []string, bytes map[int][]byte) {
	for i, b := range bytes {
		if i >= 0 && i < len(all) {
			all[i] = string(b)
		}
	}
}
