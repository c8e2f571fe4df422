import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { Controller, Get, Res } from '@nestjs/common';
import type { FastifyReply } from 'fastify';

const HEADERS = {
  'cache-control': 'no-cache',
  'content-security-policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
};

const file = (name: string) => readFileSync(join(import.meta.dirname, 'page', name));

/** The page to see and toggle flags: four files, read once. What it shows comes from the admin API. */
@Controller()
export class PageController {
  private readonly html = file('index.html');
  private readonly style = file('page.css');
  private readonly script = file('page.mjs');
  private readonly icon = file('icon.svg');

  @Get()
  page(@Res() reply: FastifyReply): void {
    void reply.headers(HEADERS).type('text/html; charset=utf-8').send(this.html);
  }

  @Get('page.css')
  styleSheet(@Res() reply: FastifyReply): void {
    void reply.headers(HEADERS).type('text/css; charset=utf-8').send(this.style);
  }

  @Get('page.mjs')
  program(@Res() reply: FastifyReply): void {
    void reply.headers(HEADERS).type('text/javascript; charset=utf-8').send(this.script);
  }

  @Get('icon.svg')
  picture(@Res() reply: FastifyReply): void {
    void reply.headers(HEADERS).type('image/svg+xml').send(this.icon);
  }
}
