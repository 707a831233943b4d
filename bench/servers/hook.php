<?php
// What people paste: everything that came, appended to a file. Nothing is synced, and no token is checked.
file_put_contents(getenv('HOOK_LOG') ?: __DIR__ . '/hook.log', print_r($_REQUEST, true), FILE_APPEND);
