import tab from '@bomb.sh/tab/commander';
import type { Command } from 'commander';

const EXAMPLES = `
Examples:
  ff-relay completion bash > /etc/bash_completion.d/ff-relay
  ff-relay completion zsh > "\${fpath[1]}/_ff-relay"
  ff-relay completion fish > ~/.config/fish/completions/ff-relay.fish

The script asks ff-relay itself, so that has to be on the PATH: npm link, in the project's folder, puts it there.
That for bash needs the package bash-completion.`;

/** `completion`, and `complete`, which the script calls: for all commands that there are by now. */
export function addCompletion(program: Command): void {
  const commands = everyCommand(program);
  const descriptions = commands.map((command) => command.description());
  // Suggestions are told a line each.
  for (const command of commands) command.description(command.summary() || command.description());
  tab(program, { completionCommandName: 'completion' });
  for (const [i, command] of commands.entries()) command.description(descriptions[i] ?? '');
  program.commands
    .find((command) => command.name() === 'completion')
    ?.summary('write the script that completes commands in a shell')
    .description(
      'Writes a script to standard output that lets a shell complete commands, options and their values.',
    )
    .addHelpText('after', EXAMPLES);
}

function everyCommand(command: Command): readonly Command[] {
  return command.commands.flatMap((each) => [each, ...everyCommand(each)]);
}
