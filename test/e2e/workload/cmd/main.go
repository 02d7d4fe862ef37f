// Command cmd is the entry point of the end-to-end tests' pods. See package workload.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/weft-mesh/weft/test/e2e/workload"
)

const usage = `usage: e2e COMMAND
  serve NAME                   serve until told to end
  start LOAD | stop LOAD       load in the pod's server; start reads its Spec
  peers                        who made connections that the server accepted
  call URL [HOST [NAME=VALUE...]]
                               one request with such headers
  talk tcp|udp ADDRESS         a line, and the first line of the answer
  resolve tcp|udp NAME         what the name server says
  poll                         URLs from standard input, until each is answered
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	command, args := args[0], args[1:]
	switch {
	case command == "serve" && len(args) == 1:
		return (&workload.Server{Name: args[0]}).Serve(ctx)
	case command == "start" && len(args) == 1, command == "stop" && len(args) == 1, command == "peers" && len(args) == 0:
		return workload.Command(ctx, os.Stdin, os.Stdout, command, args...)
	case command == "call" && len(args) > 0:
		return workload.Print(os.Stdout, call(ctx, args))
	case command == "talk" && len(args) == 2:
		line, err := workload.Talk(ctx, args[0], args[1])
		if err == nil {
			fmt.Println(line)
		}
		return err
	case command == "resolve" && len(args) == 2:
		addresses, err := workload.Resolve(ctx, args[0], args[1])
		if err == nil {
			fmt.Println(strings.Join(addresses, "\n"))
		}
		return err
	case command == "poll" && len(args) == 0:
		return workload.Poll(ctx, os.Stdin, os.Stdout)
	}
	return errors.New(usage)
}

func call(ctx context.Context, args []string) workload.Answer {
	host, header := "", http.Header{}
	if len(args) > 1 {
		host = args[1]
		for _, h := range args[2:] {
			name, value, _ := strings.Cut(h, "=")
			header.Add(name, value)
		}
	}
	return workload.Call(ctx, args[0], host, header)
}
