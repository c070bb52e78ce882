package exec

import (
	"context"
	"fmt"
	"net"

	"github.com/banger-vm/banger/internal/guest/frame"
)

// Account is a user as the guest knows them.
type Account struct {
	UID  uint32 `json:"uid"`
	GID  uint32 `json:"gid"`
	Home string `json:"home"` // "/" for a user without one
}

// LookUp finds the user that spec names, as Command.User does; "" is the image's User. A user who is not there is a
// *frame.Refusal. It closes stream.
func LookUp(ctx context.Context, stream net.Conn, spec string) (Account, error) {
	var found Account
	if err := frame.Call(ctx, stream, doUser, userArgs{spec}, &found); err != nil {
		return Account{}, fmt.Errorf("looking up a user of the guest: %w", err)
	}
	return found, nil
}

// userArgs are the arguments of the request.
type userArgs struct {
	User string `json:"user"`
}

func (g *Guest) user(stream net.Conn, args []byte) *frame.Refusal {
	var asked userArgs
	if refused := frame.Decode(args, &asked); refused != nil {
		return refused
	}
	who, err := lookUpUser(g.Etc, first(asked.User, g.Config.User))
	if err != nil {
		return frame.Refuse(frame.BadUser, "%v", err)
	}
	frame.Answer(stream, Account{UID: who.uid, GID: who.gid, Home: homeOf(who)})
	return nil
}
