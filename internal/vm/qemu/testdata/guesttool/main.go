// Command guesttool is the only program in the image of the boot tests, beside the agent. Under the name "idle" it does
// nothing for ever, and under any other name of an init it ends.
package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

func main() {
	if filepath.Base(os.Args[0]) == "idle" {
		time.Sleep(24 * time.Hour)
	}
	if len(os.Args) < 2 {
		return
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "guesttool:", err)
		os.Exit(1)
	}
}

func run(verb string, args []string) error {
	switch verb {
	case "exit": // CODE
		code, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		os.Exit(code)
	case "copy": // standard input to standard output
		_, err := io.Copy(os.Stdout, os.Stdin)
		return err
	case "show": // FILE on standard output
		text, err := os.ReadFile(args[0])
		if err != nil {
			return err
		}
		_, err = os.Stdout.Write(text)
		return err
	case "write": // TEXT to FILE
		return os.WriteFile(args[1], []byte(args[0]), 0o600)
	case "kill-parent": // as by kill -9
		return syscall.Kill(os.Getppid(), syscall.SIGKILL)
	case "fill": // MIB of ones to FILE
		mib, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		return fill(mib, args[1])
	case "serve": // what comes to ADDRESS, by TCP and UDP, back, and "ready" on standard output
		return serve(args[0])
	case "connect": // standard input to ADDRESS of NETWORK, and what comes back to standard output
		return connect(args[0], args[1])
	case "mount-loop": // IMAGE at DIR
		return mountLoop(args[0], args[1])
	case "mount-overlay": // below DIR
		return mountOverlay(args[0])
	case "swap-on": // FILE, which is made
		return swapOn(args[0])
	case "fill-disk": // by FILE
		return fillDisk(args[0])
	case "linger": // VERB ARGUMENT…
		return linger(args[0], args[1:]...)
	case "stubborn": // in DIR
		return stubborn(args[0])
	case "stuck": // in the file system at DIR
		return stuck(args[0])
	}
	return fmt.Errorf("no verb %q", verb)
}

func serve(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	socket, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	go func() {
		for buffer := make([]byte, 65535); ; {
			if n, from, err := socket.ReadFrom(buffer); err == nil {
				_, _ = socket.WriteTo(buffer[:n], from)
			}
		}
	}()
	fmt.Println("ready")
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			_, _ = io.Copy(conn, conn)
			_ = conn.Close()
		}()
	}
}

func connect(network, address string) error {
	conn, err := net.Dial(network, address)
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(conn, os.Stdin)
		_ = conn.(interface{ CloseWrite() error }).CloseWrite()
	}()
	_, err = io.Copy(os.Stdout, conn)
	return err
}

func fill(mib int, path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	ones := bytes.Repeat([]byte{0xff}, 1<<20)
	for range mib {
		if _, err := file.Write(ones); err != nil {
			return err
		}
	}
	return file.Close()
}
